"""The configs of the two models inside a LLaVA: a vision tower and a language model.

Source: transformers' LlavaConfig, whose defaults fill sparse sections; the defaults of the two are in their tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_llava.converters.decoders import LLAMA, DecoderDialect
from edge_llava.converters.json_file import shown
from edge_llava.converters.rope import Llama3Scaling, Rope, read_rope
from edge_llava.converters.towers import CLIP, TowerKind

# LlavaConfig's own tower for an absent vision_config.
_LLAVA_TOWER = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip
_RMS_EPS, _ROPE_THETA = 1e-6, 10000.0
_MAX_NUMBER = 1e12
_MAX_COUNT = (1 << 31) - 1
_MAX_LAYERS = 512  # llama.cpp's limit (LLAMA_MAX_LAYERS)


@dataclass(frozen=True)
class TowerConfig:
    """A vision tower as trained: widths, counts, pixels."""

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    hidden_act: str
    kind: TowerKind = CLIP

    @property
    def grid_side(self) -> int:
        """Patches along a side; pixels that remain are not seen."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class LanguageConfig:
    """A language model as trained. `n_rows` counts embedding rows, which may exceed the tokens.

    `rope_theta`, `rope_factor` and `rope_llama3` are the parts of `rope`.
    """

    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_rows: int
    n_ctx_train: int
    rms_eps: float
    rope_theta: float
    rope_factor: float | None
    tied: bool
    rope_llama3: Llama3Scaling | None = None
    dialect: DecoderDialect = LLAMA

    @property
    def rope(self) -> Rope:
        """Rotary positions."""
        return Rope(self.rope_theta, self.rope_factor, self.rope_llama3)


def read_tower(section: Mapping[str, Any], kind: TowerKind, faults: list[str], *, is_inside_llava: bool) -> TowerConfig:
    """Reads a vision section and adds what is wrong to `faults`.

    Args:
        section: `vision_config`, or the config of a tower on its own; may be sparse.
        kind: Of the tower; its defaults fill the section.
        faults: List to add to.
        is_inside_llava: Whether an empty section means LLaVA's default tower instead of CLIP's.
    """
    defaults = _LLAVA_TOWER if is_inside_llava and not section else kind.sizes
    sizes = {key: _count(section, key, default, faults, "vision_config.") for key, default in defaults.items()}
    if sizes["image_size"] < sizes["patch_size"]:
        faults.append(f"vision image_size {sizes['image_size']} is smaller than patch_size {sizes['patch_size']}")
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        faults.append(
            f"vision hidden_size {sizes['hidden_size']} is not a multiple of its {sizes['num_attention_heads']} heads"
        )
    if _count(section, "num_channels", 3, faults, "vision_config.") != 3:
        faults.append(f"vision_config.num_channels is {section['num_channels']}, expected 3")
    if not isinstance(section.get("hidden_act", ""), str):
        faults.append(f"vision_config.hidden_act is {shown(section['hidden_act'])}, expected a string")
    return TowerConfig(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        n_layers=sizes["num_hidden_layers"],
        n_heads=sizes["num_attention_heads"],
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        layer_norm_eps=_number(section, "layer_norm_eps", kind.layer_norm_eps, faults),
        hidden_act=str(section.get("hidden_act", kind.hidden_act)),
        kind=kind,
    )


def read_language(
    section: Mapping[str, Any],
    faults: list[str],
    dialect: DecoderDialect = LLAMA,
    prefix: str = "",
    *,
    ignores_rope_scaling: bool = False,
) -> LanguageConfig:
    """Reads a language model's section, which may be sparse, and adds what is wrong to `faults`.

    Args:
        section: `text_config`, or a whole config in LLaVA's original layout.
        faults: List to add to.
        dialect: The kind of language model; its defaults fill what is missing.
        prefix: The section's place, for messages: "text_config.".
        ignores_rope_scaling: Whether the model's own code drops `rope_scaling`.
    """
    counts = {key: _count(section, key, default, faults) for key, default in dialect.defaults.items()}
    n_embd, n_head = counts["hidden_size"], counts["num_attention_heads"]
    n_head_kv = counts.get("num_key_value_heads") or _count(section, "num_key_value_heads", n_head, faults)
    head_dim = _count(section, "head_dim", max(1, n_embd // n_head), faults)
    if not section.get("head_dim") and n_embd % n_head:
        faults.append(f"hidden_size {n_embd} is not a multiple of num_attention_heads {n_head}")
    if not dialect.has_own_head_dim and head_dim * n_head != n_embd:
        faults.append(f"{prefix}head_dim is {head_dim}, expected hidden_size / num_attention_heads")
    if n_head % n_head_kv:
        faults.append(f"num_attention_heads {n_head} is not a multiple of num_key_value_heads {n_head_kv}")
    if head_dim % 2:
        faults.append(f"head_dim {head_dim} is odd, which rotary positions do not allow")
    faults += _find_unsupported(section, prefix)
    window = dialect.read_window(section)
    faults += _find_layer_faults(section, counts["num_hidden_layers"], prefix, has_window=window is not None)
    rope = read_rope(section, _ROPE_THETA, faults, ignores_scaling=ignores_rope_scaling)
    if rope.llama3 is not None and not dialect.has_rope_divisors:
        faults.append(f"{prefix}rope_scaling is 'llama3', which llama.cpp does not compute for {dialect.model_type}")
    return LanguageConfig(
        n_embd=n_embd,
        n_ff=counts["intermediate_size"],
        n_layer=counts["num_hidden_layers"],
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_rows=counts["vocab_size"],
        n_ctx_train=_context(counts["max_position_embeddings"], window, section.get("max_sequence_length")),
        rms_eps=_number(section, "rms_norm_eps", _RMS_EPS, faults),
        rope_theta=rope.theta,
        rope_factor=rope.factor,
        tied=section.get("tie_word_embeddings") is True,
        rope_llama3=rope.llama3,
        dialect=dialect,
    )


def _find_unsupported(section: Mapping[str, Any], prefix: str) -> list[str]:
    """Lists values that change what a block computes."""
    faults = []
    if section.get("hidden_act", "silu") != "silu":
        faults.append(f"hidden_act is {shown(section['hidden_act'])}, expected 'silu'")
    faults += [
        f"{prefix}{key} is {'true' if section[key] is True else shown(section[key])}, expected false"
        for key in ("attention_bias", "mlp_bias")
        if section.get(key)
    ]
    tied = section.get("tie_word_embeddings") or False
    if not isinstance(tied, bool):
        faults.append(f"{prefix}tie_word_embeddings is {shown(tied)}, expected true or false")
    return faults


def _context(n_positions: int, window: Any, max_sequence_length: Any) -> int:
    """Returns the context. Within a window all blocks see everything; v0 had another key for its context."""
    lengths = (window, max_sequence_length)
    return min([n_positions, *(n for n in lengths if isinstance(n, int) and not isinstance(n, bool) and n > 0)])


def _find_layer_faults(section: Mapping[str, Any], n_layers: int, prefix: str, *, has_window: bool) -> list[str]:
    """Each block must see the whole context, or a window that the context does not exceed."""
    types = section.get("layer_types")
    kinds = ("full_attention", "sliding_attention") if has_window else ("full_attention",)
    if types is None or (isinstance(types, list) and len(types) == n_layers and all(kind in kinds for kind in types)):
        return []
    return [f"{prefix}layer_types is {shown(types)}, expected {n_layers} times {' or '.join(map(repr, kinds))}"]


def _count(section: Mapping[str, Any], key: str, default: int, faults: list[str], prefix: str = "") -> int:
    value = section.get(key)
    if value is None:
        return default
    most = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_COUNT
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
        return value
    faults.append(f"{prefix}{key} is {shown(value)}, expected a positive integer up to {most}")
    return default


def _number(section: Mapping[str, Any], key: str, default: float, faults: list[str]) -> float:
    value = section.get(key, default)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MAX_NUMBER:
        return float(value)
    faults.append(f"{key} is {shown(value)}, expected a positive number")
    return 1.0
