"""The kinds of language models that are converted, one row each: what a config means, and what llama.cpp expects.

Source: transformers' LlamaConfig, MistralConfig and Qwen2Config, whose defaults fill sparse sections; llama.cpp's
conversion of LlamaForCausalLM and Qwen2ForCausalLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, eq=False)
class DecoderDialect:
    """How one kind of language model differs from the others.

    Attributes:
        model_type: transformers' name of it, as in `text_config.model_type`.
        architecture: llama.cpp's name of it.
        transformers_name: What the names of its classes in transformers begin with.
        defaults: What transformers takes for a count that a config leaves out.
        has_qkv_bias: Whether the projections to queries, keys and values add a bias.
        permutes_qk: Whether llama.cpp rotates pairs of neighbouring rows where transformers rotates halves of a head,
            so that the rows of q and k are reordered.
        has_own_head_dim: Whether llama.cpp allows heads of another width than the embedding's divided by their number.
        has_rope_divisors: Whether llama.cpp's graph divides frequencies by `rope_freqs.weight`.
        default_window: Positions that a block sees if `sliding_window` is left out; None where transformers does not
            read that key.
        window_switch: Key that must be true for the window to count; None where it always counts.
    """

    model_type: str
    architecture: str
    transformers_name: str
    defaults: Mapping[str, int]
    has_qkv_bias: bool = False
    permutes_qk: bool = True
    has_own_head_dim: bool = True
    has_rope_divisors: bool = True
    default_window: int | None = None
    window_switch: str | None = None

    def read_window(self, section: Mapping[str, Any]) -> Any:
        """Returns the value that limits what a block sees, as the config states it; None if nothing does."""
        is_off = self.window_switch is not None and not section.get(self.window_switch)
        if self.default_window is None or is_off:
            return None
        return section.get("sliding_window", self.default_window)

    def transformers_class(self, kind: str) -> Any:
        """Imports transformers' class of a kind: "Config", "ForCausalLM" or "RotaryEmbedding"."""
        folder = self.transformers_name.lower()
        return getattr(
            import_module(f"transformers.models.{folder}.modeling_{folder}"), f"{self.transformers_name}{kind}"
        )


_LLAMA_DEFAULTS = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip
_MISTRAL_DEFAULTS = _LLAMA_DEFAULTS | {
    "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip
_QWEN2_DEFAULTS = _LLAMA_DEFAULTS | {
    "intermediate_size": 22016, "num_key_value_heads": 32, "vocab_size": 151936, "max_position_embeddings": 32768,
}  # fmt: skip

LLAMA = DecoderDialect(
    model_type="llama",
    architecture="llama",
    transformers_name="Llama",
    defaults=_LLAMA_DEFAULTS,
)
MISTRAL = DecoderDialect(
    model_type="mistral",
    architecture="llama",
    transformers_name="Mistral",
    defaults=_MISTRAL_DEFAULTS,
    default_window=4096,
)
QWEN2 = DecoderDialect(
    model_type="qwen2",
    architecture="qwen2",
    transformers_name="Qwen2",
    defaults=_QWEN2_DEFAULTS,
    has_qkv_bias=True,
    permutes_qk=False,
    has_own_head_dim=False,
    has_rope_divisors=False,
    default_window=4096,
    window_switch="use_sliding_window",
)
DIALECTS = (LLAMA, MISTRAL, QWEN2)


def find_dialect(model_type: object) -> DecoderDialect | None:
    """Returns the dialect of a `text_config.model_type`; None if there is none."""
    return next((dialect for dialect in DIALECTS if dialect.model_type == model_type), None)
