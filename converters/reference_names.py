"""Names of the reference's parameters: from those in files by transformers' own rules, and to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import nn

from edge_llava.converters.tensor_names import unwrap_name

# transformers' names of the parts, and ours (see `tensor_names`). First match wins.
_OURS = (
    ("model.vision_tower.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.vision_tower.", "vision."),
    ("model.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.", "vision."),
    ("model.multi_modal_projector.linear_1.", "projector.0."),
    ("model.multi_modal_projector.linear_2.", "projector.2."),
    ("model.mm_projector.weight", "projector.0.weight"),
    ("model.mm_projector.bias", "projector.0.bias"),
    ("model.mm_projector.", "projector."),
    ("model.image_newline", "projector.image_newline"),
    ("model.language_model.", "language."),
    ("lm_head.", "language.lm_head."),
    ("model.", "language."),
)


def our_name(name: str) -> str:
    """Our name of a parameter, see `tensor_names`."""
    for theirs, ours in _OURS:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def renaming(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> Callable[[str], str]:
    """Maps names in files to names of parameters by transformers' own rules, and removes other programs' wrappers."""
    rules = _transformers_rules(model)

    def rename(name: str) -> str:
        plain = rules(unwrap_name(name))
        # transformers 5.6 removed the inner vision_model; 4 does not read its names, nor 5 those of a bare CLIP
        candidates = (
            plain,
            re.sub(r"((?:vision_tower\.)+)", r"\1vision_model.", plain, count=1),
            plain.replace("vision_model.", "", 1),
            re.sub(r"\A(?:model\.)*mm_projector\.", "model.mm_projector.", plain),
            plain.removeprefix("model."),
        )
        return next((candidate for candidate in candidates if candidate in shapes), plain)

    return rename


def _transformers_rules(model: nn.Module) -> Callable[[str], str]:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping  # transformers 5
        from transformers.core_model_loading import rename_source_key
    except ImportError:
        mapping: Mapping[str, str] = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        return lambda name: _first_substitution(mapping, name)
    renamings = get_model_conversion_mapping(model)
    return lambda name: str(rename_source_key(name, renamings, [])[0])


def _first_substitution(mapping: Mapping[str, str], name: str) -> str:
    for pattern, replacement in mapping.items():
        renamed, n = re.subn(pattern, replacement, name)
        if n:
            return renamed
    return name
