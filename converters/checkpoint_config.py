"""Reads what a checkpoint is from its JSON files alone. Decides by config values, never by names; lists all faults.

Source: transformers' LlavaConfig, and the config keys of LLaVA's own LlavaConfig (`mm_*`).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.converters.config_keys import find_code_keys, find_unknown_keys
from edge_llava.converters.decoders import DIALECTS, LLAMA, find_dialect, find_llava_dialect
from edge_llava.converters.json_file import plain, read_json, shorten, shown
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig, read_language, read_tower
from edge_llava.converters.preprocessor import check_preprocessor, find_aspect, read_preprocessor
from edge_llava.converters.towers import CLIP, TOWER_KINDS, TowerKind, find_kind
from edge_llava.errors import CheckpointError, list_faults

SUPPORTED = (
    "LLaVA v0 to 1.6 with a CLIP or SigLIP tower and LLaMA, Vicuna or Mistral, in Hugging Face layout "
    "(LlavaForConditionalGeneration, LlavaNextForConditionalGeneration) and in the original layout, whole, as delta, "
    "LoRA or projector"
)
# LlavaNextConfig's default, as (height, width).
_HF_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_HF_ARCHITECTURES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
# "llama": the deltas of v0, which are older than LLaVA's own model type
_ORIGINAL_MODEL_TYPES = ("llava", "llava_llama", "llava_mistral", "llama")
_FIRST_TOWER = "openai/clip-vit-large-patch14"  # v0's tower, which its 7B config does not name
# Pixels lie between 0 and 1 when they are normalized.
_BOUNDS = {"image_mean": (0.0, 1.0), "image_std": (1e-6, 1e6)}
# Keys that decide how everything else is read, with their JSON types.
_SECTIONS = (
    ("architectures", list, "a list"), ("text_config", dict, "an object"), ("vision_config", dict, "an object"),
    ("mm_vision_tower", str, "a string"), ("image_token_index", int, "an integer"),
    ("image_token_id", int, "an integer"),
)  # fmt: skip


@dataclass(frozen=True)
class CheckpointConfig:
    """A LLaVA checkpoint's config, complete.

    Attributes:
        layout: "hf" or "original".
        tower: The tower's config; None in the original layout, which keeps it elsewhere.
        tower_reference: Path or hub id of that tower (`mm_vision_tower`).
        projector_kind: "mlp2x_gelu", or "linear" (LLaVA-1).
        feature_layer, drop_cls: Which hidden state feeds the projector, and whether its first row is dropped.
        tap_rule: How these two are understood, one of `taps.TAP_RULES`.
        aspect: "pad", "crop", "squash" or "anyres", as trained.
        grid_pinpoints, merge, has_newline: For "anyres", as in `vision_spec.VisionSpec`.
        image_mean, image_std: Normalization.
        template: Conversation template according to the config, by name; merged models of v0 and v1 look alike. None:
            the tokenizer's files decide.
        image_marks: Whether every image is enclosed in <im_start> and <im_end>.
        image_token: Id of `<image>` in the embedding, where the checkpoint gave it a row.
        language: The language model.
    """

    layout: str
    tower: TowerConfig | None
    tower_reference: str | None
    projector_kind: str
    feature_layer: int
    drop_cls: bool
    tap_rule: str
    aspect: str
    grid_pinpoints: tuple[tuple[int, int], ...]
    merge: str
    has_newline: bool
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    template: str | None
    image_marks: bool
    image_token: int | None
    language: LanguageConfig


def read_checkpoint_config(directory: Path, kind: TowerKind = CLIP) -> CheckpointConfig:
    """Reads config.json and preprocessor_config.json of a LLaVA checkpoint.

    Args:
        directory: The checkpoint.
        kind: Of the tower, for the original layout, whose config does not say it.

    Raises:
        CheckpointError: If it is not a LLaVA, its family is unsupported, or a field is wrong; all faults at once.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    layout = _detect_layout(config, directory)
    faults: list[str] = []
    preprocessor = read_preprocessor(directory, faults)
    if layout == "hf":
        result = _read_hf(config, preprocessor, faults)
    else:
        result = _read_original(config, preprocessor, kind, faults)
    if faults:
        advice = f"Supported: {SUPPORTED}. A key without effect on what the model computes may be removed."
        raise CheckpointError(list_faults(f"{directory / 'config.json'} cannot be converted:", shorten(faults), advice))
    return result


def read_tower_config(directory: Path) -> TowerConfig:
    """Reads the config of a tower on its own: the directory of a CLIP or SigLIP, with or without the half for texts.

    Raises:
        CheckpointError: If it is neither a CLIP nor a SigLIP, or a field is wrong.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    section = config.get("vision_config") or config
    faults: list[str] = []
    kind = find_kind(config.get("model_type"))
    if kind is None:
        names = " or ".join(kind.name for kind in TOWER_KINDS)
        faults.append(f"model_type is {shown(config.get('model_type'))}, expected a {names} model")
    tower = read_tower(section, kind or CLIP, faults, is_inside_llava=False)
    faults += find_unknown_keys(config, "clip")
    if section is not config:
        faults += find_unknown_keys(section, "tower", "vision_config.")
    if faults:
        raise CheckpointError(list_faults(f"{directory} is not a usable vision tower:", shorten(faults)))
    return tower


def read_language_config(directory: Path) -> LanguageConfig:
    """Reads the config of a LLaMA on its own (a LlamaForCausalLM directory).

    Raises:
        CheckpointError: If it is not a LLaMA, or a field is wrong; all faults at once.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    faults: list[str] = []
    if config.get("model_type") != "llama":
        faults.append(f"model_type is {shown(config.get('model_type'))}, expected 'llama' (LLaMA, Vicuna)")
    faults += find_unknown_keys(config, "language")
    language = read_language(config, faults)
    if faults:
        raise CheckpointError(list_faults(f"{directory} is not a usable language model:", shorten(faults)))
    return language


def _check_sections(config: Mapping[str, Any], directory: Path) -> None:
    faults = [
        f"{key} is {shown(config[key])}, expected {expected}"
        for key, type_, expected in _SECTIONS
        if config.get(key) is not None and (not isinstance(config[key], type_) or isinstance(config[key], bool))
    ]
    faults += find_code_keys(config)
    if faults:
        raise CheckpointError(list_faults(f"{directory / 'config.json'} cannot be converted:", shorten(faults)))


def _detect_layout(config: Mapping[str, Any], directory: Path) -> str:
    """Returns the layout. The first match wins; an unsupported family is refused by name."""
    model_type, architecture = (
        plain(str(value)) for value in (config.get("model_type", ""), (config.get("architectures") or [""])[0])
    )
    family = architecture or model_type or "an unknown family"
    is_hf = architecture in _HF_ARCHITECTURES or model_type == "llava_next"
    if is_hf or (model_type == "llava" and "text_config" in config):
        if _hf_kind(config) is None:
            vision_type = shown(config["vision_config"]["model_type"])
            raise CheckpointError(
                f"{directory} has a {vision_type} tower (Pixtral and others), neither CLIP nor SigLIP. "
                f"Supported: {SUPPORTED}."
            )
        return "hf"
    if model_type in _ORIGINAL_MODEL_TYPES and (
        any(key.startswith("mm_") for key in config) or _adds_image_marks(directory)
    ):
        return "original"
    raise CheckpointError(
        f"{directory} is {family} (model_type {model_type!r}), not supported. Supported: {SUPPORTED}."
    )


def _hf_kind(config: Mapping[str, Any]) -> TowerKind | None:
    return find_kind((config.get("vision_config") or {}).get("model_type", CLIP.model_types[0]), is_tower=True)


def _read_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any], faults: list[str]) -> CheckpointConfig:
    text = config.get("text_config") or {}
    dialect = find_dialect(text.get("model_type", "llama"))
    if dialect is None:
        known = " or ".join(repr(known.model_type) for known in DIALECTS)
        faults.append(f"text_config.model_type is {shown(text['model_type'])}, expected {known}")
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        faults.append(f"vision_feature_select_strategy is {shown(strategy)}, expected 'default' or 'full'")
    if config.get("projector_hidden_act", "gelu") != "gelu":
        faults.append(f"projector_hidden_act is {shown(config['projector_hidden_act'])}, expected 'gelu'")
    if config.get("multimodal_projector_bias", True) is not True:
        faults.append("multimodal_projector_bias is false, expected true")
    vision = config.get("vision_config") or {}
    faults += find_unknown_keys(config, "hf")
    faults += find_unknown_keys(text, "language", "text_config.")
    faults += find_unknown_keys(vision, "tower", "vision_config.")
    # early ports of 1.6 name 1.5's architecture, but have pinpoints
    is_next = str(config.get("model_type")) == "llava_next" or "image_grid_pinpoints" in config
    pinpoints = _pinpoints(config.get("image_grid_pinpoints", _HF_PINPOINTS), faults) if is_next else ()
    kind = _hf_kind(config) or CLIP
    aspect = "anyres" if is_next else find_aspect(preprocessor, kind)
    tower = read_tower(vision, kind, faults, is_inside_llava=True)
    check_preprocessor(preprocessor, aspect, tower.image_size, faults)
    return CheckpointConfig(
        layout="hf",
        tower=tower,
        tower_reference=None,
        projector_kind="mlp2x_gelu",
        feature_layer=_feature_layer(config.get("vision_feature_layer", -2), "vision_feature_layer", faults),
        drop_cls=strategy == "default",
        tap_rule="index",
        aspect=aspect,
        grid_pinpoints=tuple((width, height) for height, width in pinpoints),
        merge="spatial_unpad_rounded" if is_next else "flat",
        has_newline=is_next and config.get("use_image_newline_parameter", True) is True,
        image_mean=_triple(preprocessor, "image_mean", kind.image_mean, faults),
        image_std=_triple(preprocessor, "image_std", kind.image_std, faults),
        template="mistral_instruct" if text.get("model_type") == "mistral" else "llava_v1",
        image_marks=False,
        image_token=_image_token(config, faults),
        language=read_language(text, faults, dialect or LLAMA, "text_config."),
    )


def _read_original(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], tower_kind: TowerKind, faults: list[str]
) -> CheckpointConfig:
    kind = config.get("mm_projector_type", "linear")
    if kind not in ("linear", "mlp2x_gelu"):
        faults.append(f"mm_projector_type is {shown(kind)}, expected 'linear' or 'mlp2x_gelu'")
    if config.get("s2", False):
        faults.append("s2 (multi-scale towers) is not supported")
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        faults.append(f"mm_vision_select_feature is {shown(feature)}, expected 'patch' or 'cls_patch'")
    ratio = config.get("image_aspect_ratio") or "square"
    if ratio not in ("square", "pad", "anyres"):
        faults.append(f"image_aspect_ratio is {shown(ratio)}, expected 'square', 'pad' or 'anyres'")
    merge = config.get("mm_patch_merge_type") or "flat"
    if merge not in ("flat", "spatial", "spatial_unpad"):
        faults.append(f"mm_patch_merge_type is {shown(merge)}, expected 'flat', 'spatial' or 'spatial_unpad'")
    if config.get("use_mm_proj", True) is not True:
        faults.append(f"use_mm_proj is {shown(config['use_mm_proj'])}, expected true")
    faults += find_unknown_keys(config, "original")
    is_tiled = ratio == "anyres"
    aspect = str(ratio) if ratio in ("pad", "anyres") else tower_kind.own_aspect
    check_preprocessor(preprocessor, aspect, None, faults)
    return CheckpointConfig(
        layout="original",
        tower=None,
        tower_reference=config.get("mm_vision_tower", _FIRST_TOWER if "mm_hidden_size" not in config else None),
        projector_kind=str(kind),
        feature_layer=_feature_layer(config.get("mm_vision_select_layer", -2), "mm_vision_select_layer", faults),
        drop_cls=feature == "patch",
        tap_rule=tower_kind.original_tap,
        aspect=aspect,
        grid_pinpoints=_pinpoints(config.get("image_grid_pinpoints"), faults) if is_tiled else (),
        merge=str(merge) if is_tiled else "flat",
        has_newline=is_tiled and merge == "spatial_unpad",
        image_mean=_triple(preprocessor, "image_mean", tower_kind.image_mean, faults),
        image_std=_triple(preprocessor, "image_std", tower_kind.image_std, faults),
        template=_original_template(config),
        image_marks=bool(config.get("mm_use_im_start_end", "mm_hidden_size" not in config)),
        image_token=None,
        language=read_language(config, faults, find_llava_dialect(config.get("model_type")) or LLAMA),
    )


def _adds_image_marks(directory: Path) -> bool:
    path = directory / "added_tokens.json"
    return path.is_file() and {"<im_start>", "<im_end>"} <= read_json(path).keys()


def _original_template(config: Mapping[str, Any]) -> str:
    if config.get("model_type") == "llava_mistral":
        return "mistral_instruct"
    return "llava_v0" if config.get("model_type") == "llama" else "llava_v1"


def _pinpoints(value: Any, faults: list[str]) -> tuple[tuple[int, int], ...]:
    """Reads a list of pairs, or a string that contains one."""
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
        found = tuple((first, second) for first, second in pairs)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = ()
    if found and all(type(x) is int and 0 < x < 1 << 16 for pair in found for x in pair):
        return found
    faults.append(f"image_grid_pinpoints is {shown(value)}, expected a list of pairs of pixels")
    return ()


def _feature_layer(value: Any, key: str, faults: list[str]) -> int:
    """Reads one index; transformers also accepts a list, which must contain exactly one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    faults.append(f"{key} is {shown(value)}, expected one integer")
    return -2


def _image_token(config: Mapping[str, Any], faults: list[str]) -> int | None:
    """Reads the id, `image_token_index` in transformers 4 and `image_token_id` in some configs of transformers 5."""
    ids = {key: config[key] for key in ("image_token_index", "image_token_id") if config.get(key) is not None}
    if len(set(ids.values())) > 1:
        faults.append(f"image_token_index is {ids['image_token_index']} and image_token_id {ids['image_token_id']}")
    return next(iter(ids.values()), None)


def _triple(
    section: Mapping[str, Any], key: str, default: tuple[float, float, float], faults: list[str]
) -> tuple[float, float, float]:
    value = section.get(key, default)
    low, high = _BOUNDS[key]
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_number(x, low, high) for x in value):
        red, green, blue = (float(x) for x in value)
        return red, green, blue
    expected = "three positive numbers" if key == "image_std" else "three numbers from 0 to 1"
    faults.append(f"preprocessor_config.json: {key} is {shown(value)}, expected {expected}")
    return default


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
