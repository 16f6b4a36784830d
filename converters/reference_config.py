"""Compares a checkpoint's config as transformers reads it with the converters' own reading of the same files."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.decoders import DIALECTS, DecoderDialect
from edge_llava.converters.json_file import read_json
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig
from edge_llava.converters.tower_classes import VisionConfig, find_classes
from edge_llava.converters.towers import TowerKind
from edge_llava.errors import CheckpointError, ConversionError, list_faults

# Keys that could make transformers load code or kernels, or that do not affect what is computed.
_LEFT_OUT = ("auto_map", "attn_implementation", "quantization_config", "model_type", "architectures", "pad_token_id")
# What transformers raises when it cannot read a config.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError, ZeroDivisionError)


@dataclass(frozen=True)
class ReferenceConfigs:
    """transformers' configs of a checkpoint.

    Attributes:
        llava: The whole config of the Hugging Face layout; None in the original layout.
        language: The language model's config.
        tower: The vision tower's config.
        kind: Of the tower.
        projector: "linear" or "mlp2x_gelu", for the original layout.
    """

    llava: PretrainedConfig | None
    language: PretrainedConfig
    tower: VisionConfig
    kind: TowerKind
    projector: str

    @property
    def is_tied(self) -> bool:
        """Whether the embedding serves as the head if the files contain none."""
        top = self.language if self.llava is None else self.llava
        return bool(self.language.tie_word_embeddings or top.tie_word_embeddings)

    def build_model(self) -> nn.Module:
        """Builds transformers' model; for the original layout, a language model with LLaVA's other parts and names.

        Source: LLaVA's LlavaMetaModel and build_vision_projector for the original layout.
        """
        if self.llava is not None:
            name = type(self.llava).__name__.removesuffix("Config")
            return getattr(transformers, f"{name}ForConditionalGeneration")(self.llava)  # type: ignore[no-any-return]
        model: nn.Module = _dialect(self.language).transformers_class("ForCausalLM")(self.language)
        width, n_embd = self.tower.hidden_size, self.language.hidden_size
        first = nn.Linear(width, n_embd)
        core = model.get_submodule("model")
        core.mm_projector = (
            first if self.projector == "linear" else nn.Sequential(first, nn.GELU(), nn.Linear(n_embd, n_embd))
        )
        core.vision_tower = nn.Module()
        core.vision_tower.vision_tower = find_classes(self.kind).model(self.tower)
        core.image_newline = nn.Parameter(torch.empty(n_embd))  # LLaVA-1.6's; others may keep the row
        return model


def read_reference_configs(checkpoint: Checkpoint, n_rows: int | None) -> ReferenceConfigs:
    """Reads a checkpoint's config by transformers.

    Args:
        checkpoint: As the converters read it.
        n_rows: Rows of the embedding that an adapter contains; None if it contains none.

    Raises:
        CheckpointError: If transformers cannot read it.
        ConversionError: If a value differs from the converters'; all differences at once.
    """
    directory, parts = checkpoint.directory, checkpoint.parts
    if parts is not None:
        directory = parts.language
    elif not (directory / "config.json").is_file() and checkpoint.base is not None:
        directory = checkpoint.base  # an adapter of a LLaVA in Hugging Face layout has no config of its own
    raw = read_json(directory / "config.json")
    if parts is not None:  # put together as LLaVA's own code does
        depth = read_json(parts.projector / "config.json").get("depth", 2)
        raw["mm_projector_type"] = "linear" if depth == 1 else "mlp2x_gelu"
    try:
        configs = (_read_hf if checkpoint.config.layout == "hf" else _read_original)(raw, checkpoint, n_rows)
        faults = [
            *_language_faults(checkpoint.config.language, configs.language),
            *_tower_faults(checkpoint.tower, configs.tower),
            *(() if configs.llava is None else _llava_faults(checkpoint, configs.llava)),
        ]
    except _UNREADABLE as error:
        raise CheckpointError(f"transformers cannot read {directory / 'config.json'}: {error}") from error
    for config in (configs.language, configs.tower, configs.llava):
        if config is not None:
            config._attn_implementation = "eager"
    if faults:
        advice = "Nothing is converted."
        raise ConversionError(
            list_faults(f"{directory / 'config.json'} is read by transformers as another model:", faults, advice)
        )
    return configs


def _read_hf(raw: Mapping[str, Any], checkpoint: Checkpoint, n_rows: int | None) -> ReferenceConfigs:
    settings = _harmless(raw)
    text, vision = settings.get("text_config") or {}, settings.get("vision_config")
    raw_text = raw.get("text_config") or {}
    text = _for_installed_transformers(text) | {"model_type": raw_text.get("model_type", "llama")}
    if n_rows is not None:
        text["vocab_size"] = n_rows
    settings["text_config"] = text
    if vision:
        settings["vision_config"] = vision | {"model_type": checkpoint.tower.kind.model_types[0]}
    else:
        settings.pop("vision_config", None)
    llava = getattr(transformers, f"{checkpoint.config.family.transformers_name}Config")(**settings)
    return ReferenceConfigs(llava, llava.text_config, llava.vision_config, checkpoint.tower.kind, "mlp2x_gelu")


def _read_original(raw: Mapping[str, Any], checkpoint: Checkpoint, n_rows: int | None) -> ReferenceConfigs:
    settings = _for_installed_transformers(_harmless(raw))
    if checkpoint.config.family.resets_rope_scaling:
        settings.pop("rope_scaling", None)
    if n_rows is not None:
        settings["vocab_size"] = n_rows
    language = checkpoint.config.language.dialect.transformers_class("Config")(**settings)
    return ReferenceConfigs(
        None,
        language,
        _read_tower(checkpoint),
        checkpoint.tower.kind,
        str(raw.get("mm_projector_type", "linear")),
    )


def _read_tower(checkpoint: Checkpoint) -> VisionConfig:
    """Reads the tower's config; a tower inside a checkpoint has none, so its sizes are inferred from its tensors."""
    make = find_classes(checkpoint.tower.kind).config
    if checkpoint.tower_directory is not None:
        raw = _harmless(read_json(checkpoint.tower_directory / "config.json"))
        return make(**(raw.get("vision_config") or raw))
    tower = checkpoint.tower
    return make(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_hidden_layers=tower.n_layers,
        num_attention_heads=tower.n_heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
    )


def _harmless(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Removes what could make transformers load code: private keys and those in `_LEFT_OUT`, at any depth."""
    return {
        key: _harmless(value) if isinstance(value, dict) else copy.deepcopy(value)
        for key, value in raw.items()
        if not key.startswith("_") and key not in _LEFT_OUT
    }


def _for_installed_transformers(settings: dict[str, Any]) -> dict[str, Any]:
    """Translates transformers 5's rope_parameters to transformers 4's keys, if version 4 is installed.

    If a config also has rope_scaling, transformers 5 ignores rope_parameters, as version 4 does.
    """
    rope = settings.get("rope_parameters")
    is_read = isinstance(rope, dict) and not settings.get("rope_scaling")
    if rope is None or not is_read or int(transformers.__version__.partition(".")[0]) >= 5:
        return settings
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    if by_layer_type:
        if any(value != by_layer_type[0] for value in by_layer_type):
            raise ValueError("rope_parameters differ by layer type")
        rope = by_layer_type[0]
    rest = {key: value for key, value in settings.items() if key != "rope_parameters"}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    is_scaled = scaling.get("rope_type", scaling.get("type", "default")) != "default"
    if "rope_theta" in rope:
        rest["rope_theta"] = rope["rope_theta"]
    return rest | {"rope_scaling": scaling if is_scaled else None}


def _language_faults(ours: LanguageConfig, theirs: PretrainedConfig) -> list[str]:
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    values: dict[str, tuple[object, object]] = {
        "model_type": (ours.dialect.model_type, theirs.model_type),
        "hidden_size": (ours.n_embd, theirs.hidden_size),
        "intermediate_size": (ours.n_ff, theirs.intermediate_size),
        "num_hidden_layers": (ours.n_layer, theirs.num_hidden_layers),
        "num_attention_heads": (ours.n_head, theirs.num_attention_heads),
        "num_key_value_heads": (ours.n_head_kv, theirs.num_key_value_heads),
        "head_dim": (ours.head_dim, head_dim),
        "vocab_size": (ours.n_rows, theirs.vocab_size),
        "rms_norm_eps": (ours.rms_eps, theirs.rms_norm_eps),
        "hidden_act": ("silu", theirs.hidden_act),
        "attention_bias": (False, getattr(theirs, "attention_bias", False)),
        "mlp_bias": (False, getattr(theirs, "mlp_bias", False)),
    }
    faults = _unequal(values)
    # LlamaConfig keeps keys that it does not know, and LLaMA's code does not read this one
    window = None if ours.dialect.default_window is None else theirs.sliding_window
    window = window or theirs.max_position_embeddings
    if ours.n_ctx_train > min(window, theirs.max_position_embeddings):
        faults.append(f"context is {min(window, theirs.max_position_embeddings)}, read as {ours.n_ctx_train}")
    return faults or _rope_faults(ours, theirs)


def _rope_faults(ours: LanguageConfig, theirs: PretrainedConfig) -> list[str]:
    """Compares the angles per position, which depend on theta, type and factor of any kind of rope."""
    rotary = build_rotary(theirs)
    frequencies = torch.from_numpy(ours.rope.frequencies(ours.head_dim)).float()
    is_same = rotary.inv_freq.shape == frequencies.shape and torch.allclose(rotary.inv_freq, frequencies, rtol=1e-4)
    if is_same and rotary.attention_scaling == 1.0:
        return []
    scaling = "no scaling" if ours.rope_factor is None else f"factor {ours.rope_factor:g}"
    if ours.rope_llama3 is not None:
        scaling = f"the scaling of Llama 3.1 by {ours.rope_llama3.factor:g}"
    return [f"rope differs; read as theta {ours.rope_theta:g} and {scaling}"]


def build_rotary(config: PretrainedConfig) -> Any:
    """Returns transformers' rotary embedding of a language model."""
    return _dialect(config).transformers_class("RotaryEmbedding")(config)


def _dialect(config: PretrainedConfig) -> DecoderDialect:
    return next(dialect for dialect in DIALECTS if dialect.model_type == config.model_type)


def _tower_faults(ours: TowerConfig, theirs: VisionConfig) -> list[str]:
    values: dict[str, tuple[object, object]] = {
        "hidden_size": (ours.hidden_size, theirs.hidden_size),
        "intermediate_size": (ours.intermediate_size, theirs.intermediate_size),
        "num_hidden_layers": (ours.n_layers, theirs.num_hidden_layers),
        "num_attention_heads": (ours.n_heads, theirs.num_attention_heads),
        "image_size": (ours.image_size, theirs.image_size),
        "patch_size": (ours.patch_size, theirs.patch_size),
        "layer_norm_eps": (ours.layer_norm_eps, theirs.layer_norm_eps),
        "hidden_act": (ours.hidden_act, theirs.hidden_act),
        "num_channels": (3, theirs.num_channels),
    }
    return [f"vision_config.{fault}" for fault in _unequal(values)]


def _llava_faults(checkpoint: Checkpoint, theirs: PretrainedConfig) -> list[str]:
    ours, layer = checkpoint.config, theirs.vision_feature_layer
    strategy = "default" if ours.drop_cls else "full"
    values: dict[str, tuple[object, object]] = {
        "vision_feature_layer": ([ours.feature_layer], [layer] if isinstance(layer, int) else list(layer)),
        "vision_feature_select_strategy": (strategy, theirs.vision_feature_select_strategy),
        "projector_hidden_act": ("gelu", theirs.projector_hidden_act),
        "multimodal_projector_bias": (True, theirs.multimodal_projector_bias),
    }
    if ours.family.is_tiled:
        pinpoints = [[height, width] for width, height in ours.grid_pinpoints]
        values["image_grid_pinpoints"] = (pinpoints, [list(pair) for pair in theirs.image_grid_pinpoints])
    if ours.merge_limit is not None:
        values["vision_aspect_ratio"] = (f"anyres_max_{ours.merge_limit}", theirs.vision_aspect_ratio)
    if ours.image_token is not None:
        values["image_token_index"] = (ours.image_token, theirs.image_token_index)
    return _unequal(values)


def _unequal(values: Mapping[str, tuple[object, object]]) -> list[str]:
    return [f"{key} is {theirs!r}, read as {ours!r}" for key, (ours, theirs) in values.items() if ours != theirs]
