"""Reads what a checkpoint is from its JSON files alone. Decides by config values, never by names; lists all faults.

Source: transformers' LlavaConfig, and the config keys of LLaVA's own LlavaConfig (`mm_*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.converters.config_keys import find_code_keys, find_unknown_keys
from edge_llava.converters.config_values import read_feature_layer, read_image_token, read_pinpoints, read_triple
from edge_llava.converters.decoders import DIALECTS, LLAMA, DecoderDialect, find_dialect
from edge_llava.converters.families import Family, find_family
from edge_llava.converters.json_file import plain, read_json, shorten, shown
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig, read_language, read_tower
from edge_llava.converters.preprocessor import check_preprocessor, find_aspect, read_preprocessor
from edge_llava.converters.towers import CLIP, TOWER_KINDS, TowerKind, find_kind
from edge_llava.errors import CheckpointError, list_faults

SUPPORTED = (
    "LLaVA v0 to 1.6 and OneVision with a CLIP or SigLIP tower and LLaMA (Vicuna, Llama 3), Mistral or Qwen 1.5 to 2.5 "
    "in Hugging Face layout, in the original layout (whole, as delta, LoRA or projector) and in xtuner's"
)
_FIRST_TOWER = "openai/clip-vit-large-patch14"  # v0's tower, which its 7B config does not name
_LIMITED = re.compile(r"anyres_max_(\d{1,4})")
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
        family: Its row.
        tower: The tower's config; None in the original layout, which keeps it elsewhere.
        tower_reference: Path or hub id of that tower (`mm_vision_tower`).
        projector_kind: "mlp2x_gelu", or "linear" (LLaVA-1).
        feature_layer, drop_cls: Which hidden state feeds the projector, and whether its first row is dropped.
        tap_rule: How these two are understood, one of `taps.TAP_RULES`.
        aspect: "pad", "crop", "squash" or "anyres", as trained.
        grid_pinpoints, merge, merge_limit, has_newline: For "anyres", as in `vision_spec.VisionSpec`.
        image_mean, image_std: Normalization.
        template: Conversation template according to the config, by name; merged models of v0 and v1 look alike. None:
            the tokenizer's files decide.
        image_marks: Whether every image is enclosed in <im_start> and <im_end>.
        image_token: Id of `<image>` in the embedding, where the checkpoint gave it a row.
        language: The language model.
        template_fault: Why the template that was trained cannot be used, unless the user states one; "" if it can.
    """

    family: Family
    tower: TowerConfig | None
    tower_reference: str | None
    projector_kind: str
    feature_layer: int
    drop_cls: bool
    tap_rule: str
    aspect: str
    grid_pinpoints: tuple[tuple[int, int], ...]
    merge: str
    merge_limit: int | None
    has_newline: bool
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    template: str | None
    image_marks: bool
    image_token: int | None
    language: LanguageConfig
    template_fault: str = ""

    @property
    def layout(self) -> str:
        """ "hf", "original" or "xtuner"."""
        return self.family.layout


def read_checkpoint_config(directory: Path, tower: TowerConfig | None = None) -> CheckpointConfig:
    """Reads config.json and preprocessor_config.json of a LLaVA checkpoint.

    Args:
        directory: The checkpoint.
        tower: For the original layout, whose config does not describe it; None while it is unknown.

    Raises:
        CheckpointError: If it is not a LLaVA, its family is unsupported, or a field is wrong; all faults at once.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    family = _find_family(config, directory)
    faults: list[str] = []
    preprocessor = read_preprocessor(directory, faults)
    if family.layout == "hf":
        result = _read_hf(family, config, preprocessor, faults)
    else:
        result = _read_original(family, config, preprocessor, tower, faults)
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


def read_language_config(directory: Path, dialects: Sequence[DecoderDialect] = (LLAMA,)) -> LanguageConfig:
    """Reads the config of a language model on its own (a LlamaForCausalLM directory).

    Args:
        directory: Where config.json lies.
        dialects: The kinds that will do.

    Raises:
        CheckpointError: If it is of no such kind, or a field is wrong; all faults at once.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    faults: list[str] = []
    dialect = next((dialect for dialect in dialects if dialect.model_type == config.get("model_type")), None)
    if dialect is None:
        known = " or ".join(repr(dialect.model_type) for dialect in dialects)
        faults.append(f"model_type is {shown(config.get('model_type'))}, expected {known}")
    faults += find_unknown_keys(config, "language")
    language = read_language(config, faults, dialect or LLAMA)
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


def _find_family(config: Mapping[str, Any], directory: Path) -> Family:
    """Returns the row. An unsupported family is refused by name."""
    family = find_family(config)
    if family is not None and family.layout == "hf":
        if _hf_kind(config) is None:
            vision_type = shown(config["vision_config"]["model_type"])
            raise CheckpointError(
                f"{directory} has a {vision_type} tower (Pixtral and others), neither CLIP nor SigLIP. "
                f"Supported: {SUPPORTED}."
            )
        return family
    if family is not None and (any(key.startswith("mm_") for key in config) or _adds_image_marks(directory)):
        return family
    model_type, architecture = (
        plain(str(value)) for value in (config.get("model_type", ""), (config.get("architectures") or [""])[0])
    )
    code = " Its model is code of its own (auto_map), which is never run." if config.get("auto_map") else ""
    raise CheckpointError(
        f"{directory} is {architecture or model_type or 'an unknown family'} (model_type {model_type!r}), not "
        f"supported.{code} Supported: {SUPPORTED}."
    )


def _hf_kind(config: Mapping[str, Any]) -> TowerKind | None:
    return find_kind((config.get("vision_config") or {}).get("model_type", CLIP.model_types[0]), is_tower=True)


def _read_hf(
    family: Family, config: Mapping[str, Any], preprocessor: Mapping[str, Any], faults: list[str]
) -> CheckpointConfig:
    text, stated = config.get("text_config") or {}, {**family.defaults, **config}
    dialect = find_dialect(text.get("model_type", "llama"))
    if dialect is None:
        known = " or ".join(repr(known.model_type) for known in DIALECTS)
        faults.append(f"text_config.model_type is {shown(text['model_type'])}, expected {known}")
    strategy = stated["vision_feature_select_strategy"]
    if strategy not in ("default", "full"):
        faults.append(f"vision_feature_select_strategy is {shown(strategy)}, expected 'default' or 'full'")
    if config.get("projector_hidden_act", "gelu") != "gelu":
        faults.append(
            f"projector_hidden_act is {shown(config['projector_hidden_act'])}, expected 'gelu'. Some published configs "
            "name the language model's activation here; if the projector was trained with GELU, as LLaVA's code does, "
            "correct the config"
        )
    if config.get("multimodal_projector_bias", True) is not True:
        faults.append("multimodal_projector_bias is false, expected true")
    vision = config.get("vision_config") or {}
    faults += find_unknown_keys(config, "hf")
    faults += find_unknown_keys(text, "language", "text_config.")
    faults += find_unknown_keys(vision, "tower", "vision_config.")
    kind = _hf_kind(config) or CLIP
    aspect = "anyres" if family.is_tiled else find_aspect(preprocessor, kind)
    tower = read_tower(vision, kind, faults, is_inside_llava=True)
    check_preprocessor(preprocessor, aspect, tower.image_size, faults)
    pinpoints = read_pinpoints(stated["image_grid_pinpoints"], None, faults) if family.is_tiled else ()
    return CheckpointConfig(
        family=family,
        tower=tower,
        tower_reference=None,
        projector_kind="mlp2x_gelu",
        feature_layer=read_feature_layer(stated["vision_feature_layer"], "vision_feature_layer", faults),
        drop_cls=strategy == "default",
        tap_rule="index",
        aspect=aspect,
        grid_pinpoints=tuple((width, height) for height, width in pinpoints),
        merge="spatial_unpad_rounded" if family.is_tiled else "flat",
        merge_limit=_merge_limit(stated.get("vision_aspect_ratio", "anyres"), "vision_aspect_ratio", faults),
        has_newline=family.is_tiled and config.get("use_image_newline_parameter", True) is True,
        image_mean=read_triple(preprocessor, "image_mean", kind.image_mean, faults),
        image_std=read_triple(preprocessor, "image_std", kind.image_std, faults),
        template=family.template or _hf_template(text),
        image_marks=False,
        image_token=read_image_token(config, faults),
        language=read_language(text, faults, dialect or LLAMA, "text_config."),
    )


def _read_original(
    family: Family,
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    tower: TowerConfig | None,
    faults: list[str],
) -> CheckpointConfig:
    tower_kind = tower.kind if tower is not None else CLIP
    kind = config.get("mm_projector_type", "linear")
    if kind not in ("linear", "mlp2x_gelu"):
        faults.append(f"mm_projector_type is {shown(kind)}, expected 'linear' or 'mlp2x_gelu'")
    if config.get("s2", False) or config.get("use_s2", False):
        faults.append("s2 (multi-scale towers) is not supported")
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        faults.append(f"mm_vision_select_feature is {shown(feature)}, expected 'patch' or 'cls_patch'")
    ratio = config.get("image_aspect_ratio") or "square"
    is_tiled = isinstance(ratio, str) and ratio.startswith("anyres")
    if not is_tiled and ratio not in ("square", "pad"):
        faults.append(f"image_aspect_ratio is {shown(ratio)}, expected 'square', 'pad', 'anyres' or 'anyres_max_N'")
    merge = config.get("mm_patch_merge_type") or "flat"
    if merge not in ("flat", "spatial", "spatial_unpad"):
        faults.append(f"mm_patch_merge_type is {shown(merge)}, expected 'flat', 'spatial' or 'spatial_unpad'")
    if config.get("use_mm_proj", True) is not True:
        faults.append(f"use_mm_proj is {shown(config['use_mm_proj'])}, expected true")
    faults += find_unknown_keys(config, "original")
    aspect = "anyres" if is_tiled else "pad" if ratio == "pad" else tower_kind.own_aspect
    check_preprocessor(preprocessor, aspect, None, faults)
    limit = _merge_limit(ratio, "image_aspect_ratio", faults) if is_tiled else None
    size = None if tower is None else tower.image_size
    return CheckpointConfig(
        family=family,
        tower=None,
        tower_reference=config.get("mm_vision_tower", _FIRST_TOWER if "mm_hidden_size" not in config else None),
        projector_kind=str(kind),
        feature_layer=read_feature_layer(config.get("mm_vision_select_layer", -2), "mm_vision_select_layer", faults),
        drop_cls=feature == "patch" and (family.tap_rule is None or tower_kind.has_class_row),
        tap_rule=family.tap_rule or tower_kind.original_tap,
        aspect=aspect,
        grid_pinpoints=read_pinpoints(config.get("image_grid_pinpoints"), size, faults) if is_tiled else (),
        merge=str(merge) if is_tiled else "flat",
        # LLaVA-NeXT's code looks at the limit where it unpads only
        merge_limit=limit if merge == "spatial_unpad" else None,
        has_newline=is_tiled and merge == "spatial_unpad",
        image_mean=read_triple(preprocessor, "image_mean", tower_kind.image_mean, faults),
        image_std=read_triple(preprocessor, "image_std", tower_kind.image_std, faults),
        template=family.template,
        image_marks=bool(config.get("mm_use_im_start_end", "mm_hidden_size" not in config)),
        image_token=None,
        language=read_language(
            config, faults, family.dialect or LLAMA, ignores_rope_scaling=family.resets_rope_scaling
        ),
    )


def _merge_limit(value: Any, key: str, faults: list[str]) -> int | None:
    """Reads N of "anyres_max_N"."""
    if value == "anyres":
        return None
    if isinstance(value, str) and (found := _LIMITED.fullmatch(value)):
        return int(found[1])
    faults.append(f"{key} is {shown(value)}, expected 'anyres' or 'anyres_max_N'")
    return None


def _hf_template(text: Mapping[str, Any]) -> str | None:
    return "mistral_instruct" if text.get("model_type") == "mistral" else None


def _adds_image_marks(directory: Path) -> bool:
    path = directory / "added_tokens.json"
    return path.is_file() and {"<im_start>", "<im_end>"} <= read_json(path).keys()
