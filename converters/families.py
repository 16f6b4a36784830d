"""The families of checkpoints that are converted, one row each: how a config is recognized, and what its code decides.

A family is found by what its config says, never by the name of a directory. What a row does not state, the config, the
tower or the tokenizer's files do.

Source: transformers' LlavaConfig, LlavaNextConfig and LlavaOnevisionConfig; LLaVA's, LLaVA-NeXT's, Bunny's and
nanoLLaVA's own classes and conversations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_llava.converters.decoders import LLAMA, MISTRAL, QWEN2, DecoderDialect


@dataclass(frozen=True)
class Family:
    """What checkpoints of one family have in common.

    Attributes:
        name: For people.
        layout: "hf": sections `text_config` and `vision_config`; "original": the language model's keys on top, and
            `mm_*`; "xtuner": a directory and a config for each part.
        names: Its `architectures` or its `model_type` is one of them; none where no config says what the whole is.
        has_key: A key that its config has, in addition; "" for none.
        transformers_name: What the names of its classes in transformers begin with; "" for originals, which have none.
        defaults: What those classes take for a key that a config leaves out.
        dialect: The language model of an original; None: `text_config.model_type` names it.
        template: Name of the template that its training code knows; None: the tokenizer's files decide.
        tap_rule: How its code chooses the tower's features, see `taps.TAP_RULES`; None: as LLaVA-NeXT's, by the tower.
        is_tiled: Whether it cuts images into tiles; an original's config says so itself.
        several_images: See `vision_spec.VisionSpec`.
        resets_rope_scaling: Whether its loader ignores `rope_scaling`.
    """

    name: str
    layout: str
    names: tuple[str, ...]
    has_key: str = ""
    transformers_name: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dialect: DecoderDialect | None = None
    template: str | None = None
    tap_rule: str | None = None
    is_tiled: bool = False
    several_images: str = "as_one"
    resets_rope_scaling: bool = False

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a config is of this family."""
        stated = {str(config.get("model_type", "")), *map(str, (config.get("architectures") or [])[:1])}
        return bool(stated & set(self.names)) and (not self.has_key or self.has_key in config)


_LLAVA_DEFAULTS = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
# as (height, width)
_NEXT_DEFAULTS = _LLAVA_DEFAULTS | {
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}
_ONEVISION_DEFAULTS = {
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "vision_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
}
_LLAVA_NAMES = ("LlavaForConditionalGeneration", "llava")

# The first that fits counts.
FAMILIES = (
    Family(
        "LLaVA-OneVision",
        "hf",
        ("LlavaOnevisionForConditionalGeneration", "llava_onevision"),
        transformers_name="LlavaOnevision",
        defaults=_ONEVISION_DEFAULTS,
        is_tiled=True,
        several_images="square_with_newline",
    ),
    Family(
        "LLaVA-1.6",
        "hf",
        ("LlavaNextForConditionalGeneration", "llava_next"),
        transformers_name="LlavaNext",
        defaults=_NEXT_DEFAULTS,
        is_tiled=True,
    ),
    # early ports of 1.6 name 1.5's architecture, but have pinpoints
    Family(
        "LLaVA-1.6",
        "hf",
        _LLAVA_NAMES[:1],
        has_key="image_grid_pinpoints",
        transformers_name="LlavaNext",
        defaults=_NEXT_DEFAULTS,
        is_tiled=True,
    ),
    Family("LLaVA-1.5", "hf", _LLAVA_NAMES[:1], transformers_name="Llava", defaults=_LLAVA_DEFAULTS),
    Family("LLaVA-1.5", "hf", _LLAVA_NAMES, has_key="text_config", transformers_name="Llava", defaults=_LLAVA_DEFAULTS),
    # OneVision and its relatives; early uploads say model_type llava
    Family(
        "LLaVA-OneVision",
        "original",
        ("LlavaQwenForCausalLM", "llava_qwen"),
        dialect=QWEN2,
        template="qwen_chatml",
        several_images="square_with_newline",
        resets_rope_scaling=True,
    ),
    Family(
        "nanoLLaVA",
        "original",
        ("LlavaQwen2ForCausalLM", "llava-qwen2", "llava_qwen2"),
        dialect=QWEN2,
        tap_rule="index",
    ),
    Family("Bunny v1.0", "original", ("bunny-llama",), dialect=LLAMA, template="bunny_llama_3", tap_rule="index"),
    Family(
        "Bunny v1.0",
        "original",
        ("bunny-qwen", "bunny-qwen2"),
        dialect=QWEN2,
        template="bunny_endoftext",
        tap_rule="index",
    ),
    Family("LLaVA with Mistral", "original", ("llava_mistral",), dialect=MISTRAL, template="mistral_instruct"),
    Family("LLaVA v0", "original", ("llama",), dialect=LLAMA, template="llava_v0"),
    Family("LLaVA", "original", ("llava", "llava_llama"), dialect=LLAMA),
)
# found by its directories, see `parts`
XTUNER = Family("xtuner", "xtuner", ())


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a config; None if it is of none."""
    return next((family for family in FAMILIES if family.fits(config)), None)
