"""Reads the configs of a LLaVA in xtuner's layout, one for each part; lists all faults.

Source: xtuner's ProjectorConfig, and LLaVAModel for what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_llava.bundle.templates import TEMPLATES
from edge_llava.converters.checkpoint_config import CheckpointConfig, read_language_config, read_tower_config
from edge_llava.converters.config_keys import find_code_keys, find_unknown_keys
from edge_llava.converters.config_values import read_triple
from edge_llava.converters.decoders import DIALECTS
from edge_llava.converters.families import XTUNER
from edge_llava.converters.json_file import read_json, shorten, shown
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig
from edge_llava.converters.parts import Parts
from edge_llava.converters.preprocessor import check_preprocessor, read_preprocessor
from edge_llava.converters.xtuner_config import NAME, XtunerConfig
from edge_llava.errors import CheckpointError, list_faults

# xtuner's names of templates, and ours.
_TEMPLATES: Mapping[str, str] = {"llama3_chat": "llama_3", "phi3_chat": "phi_3", "vicuna": "vicuna_xtuner"}
_PROJECTOR_KINDS: Mapping[object, str] = {1: "linear", 2: "mlp2x_gelu"}  # by depth


def read_parts_config(parts: Parts, training: XtunerConfig) -> tuple[CheckpointConfig, TowerConfig]:
    """Reads the config of each part, and puts them together.

    Args:
        parts: Where they lie.
        training: What the training config says.

    Raises:
        CheckpointError: If a part is of an unsupported kind, or they do not fit; all faults of a part at once.
    """
    language, tower = read_language_config(parts.language, DIALECTS), read_tower_config(parts.tower)
    _check_positions(language, parts, training)
    projector_kind = _read_projector(parts.projector, tower, language)
    faults: list[str] = []
    preprocessor = read_preprocessor(parts.tower, faults)
    check_preprocessor(preprocessor, "pad", tower.image_size, faults)
    config = CheckpointConfig(
        family=XTUNER,
        tower=tower,
        tower_reference=None,
        projector_kind=projector_kind,
        feature_layer=training.feature_layer,
        drop_cls=tower.kind.has_class_row,
        tap_rule="index",
        aspect="pad",
        grid_pinpoints=(),
        merge="flat",
        merge_limit=None,
        has_newline=False,
        image_mean=read_triple(preprocessor, "image_mean", tower.kind.image_mean, faults),
        image_std=read_triple(preprocessor, "image_std", tower.kind.image_std, faults),
        template=_TEMPLATES.get(training.template or ""),
        image_marks=False,
        image_token=None,
        language=language,
        template_fault=_find_template_fault(training.template, parts),
    )
    if faults:
        raise CheckpointError(list_faults(f"{parts.tower} is not a usable vision tower:", shorten(faults)))
    return config, tower


def _check_positions(language: LanguageConfig, parts: Parts, training: XtunerConfig) -> None:
    """Training may stretch positions; only a language model that it saved whole says so in its own config."""
    trained = training.n_positions or 0
    if parts.kind != "whole" and trained > language.n_ctx_train:
        raise CheckpointError(
            f"{parts.checkpoint / NAME} says that training stretched {language.n_ctx_train:,} positions to {trained:,} "
            f"(model.max_position_embeddings), and {parts.language / 'config.json'} does not. Convert with a copy of "
            "that model whose config.json has the rope_scaling and the max_position_embeddings that were trained."
        )


def _find_template_fault(name: str | None, parts: Parts) -> str:
    if name is None or name in _TEMPLATES:
        return ""
    return (
        f"{parts.checkpoint / NAME} names the template {shown(name)}, which edge-llava does not have. "
        f"Choose the one nearest to what was trained: --template {', '.join(TEMPLATES)}."
    )


def _read_projector(directory: Path, tower: TowerConfig, language: LanguageConfig) -> str:
    """Returns the kind of the projector: "linear" or "mlp2x_gelu"."""
    config = read_json(directory / "config.json")
    stated: Mapping[str, Any] = {"depth": 2, "hidden_act": "gelu", "bias": True, **config}
    expected = {
        "model_type": ("projector",),
        "depth": tuple(_PROJECTOR_KINDS),
        "hidden_act": ("gelu",),
        "bias": (True,),
        "visual_hidden_size": (tower.hidden_size,),
        "llm_hidden_size": (language.n_embd,),
    }
    whose = {"visual_hidden_size": " (of the tower)", "llm_hidden_size": " (of the language model)"}
    faults = [
        f"{key} is {shown(stated.get(key))}, expected {' or '.join(map(repr, values))}{whose.get(key, '')}"
        for key, values in expected.items()
        if not any(type(stated.get(key)) is type(value) and stated[key] == value for value in values)
    ]
    faults += [*find_code_keys(config), *find_unknown_keys(config, "projector")]
    if faults:
        raise CheckpointError(list_faults(f"{directory / 'config.json'} cannot be converted:", shorten(faults)))
    return _PROJECTOR_KINDS[stated["depth"]]
