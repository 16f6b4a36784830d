"""What a checkpoint is, from its JSON files alone. Decides by config values, never by names; all faults at once.

Source: transformers' LlavaConfig, CLIPVisionConfig and LlamaConfig (defaults of sparse configs), and the config keys of
LLaVA's own LlavaConfig (`mm_*`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import CheckpointError, list_faults

SUPPORTED = (
    "LLaVA-1.5 in Hugging Face layout (LlavaForConditionalGeneration, CLIP tower, LLaMA/Vicuna) and in the original "
    "layout (LlavaLlamaForCausalLM, mlp2x_gelu)"
)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_ORIGINAL_MODEL_TYPES = ("llava", "llava_llama")
# LlavaConfig's own tower when vision_config is absent, and CLIPVisionConfig's defaults when it is sparse.
_LLAVA_TOWER = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip
_CLIP_TOWER = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip
_LLAMA = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip

# Keys that everything else is decided by, with their JSON types.
_SECTIONS = (
    ("architectures", list, "a list"), ("text_config", dict, "an object"), ("vision_config", dict, "an object"),
    ("mm_vision_tower", str, "a string"), ("image_token_index", int, "an integer"),
    ("image_token_id", int, "an integer"),
)  # fmt: skip


@dataclass(frozen=True)
class TowerConfig:
    """A CLIP vision tower as trained: widths, counts, pixels."""

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    hidden_act: str


@dataclass(frozen=True)
class LanguageConfig:
    """A LLaMA as trained. `n_rows` counts embedding rows, which may exceed the tokens; `rope_factor` is linear."""

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


@dataclass(frozen=True)
class CheckpointConfig:
    """A LLaVA checkpoint's config, complete.

    Attributes:
        layout: "hf" or "original".
        tower: The tower's config; None in the original layout, where it lies elsewhere.
        tower_reference: Path or hub id of that tower (`mm_vision_tower`).
        feature_layer, drop_cls: Which hidden state feeds the projector, and whether its class row is dropped.
        aspect: "pad" or "crop", as trained.
        image_mean, image_std: Normalization.
        image_token: Id of `<image>` in the embedding, where the checkpoint gave it a row.
        language: The language model.
    """

    layout: str
    tower: TowerConfig | None
    tower_reference: str | None
    feature_layer: int
    drop_cls: bool
    aspect: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_token: int | None
    language: LanguageConfig


def read_checkpoint_config(directory: Path) -> CheckpointConfig:
    """Reads config.json and preprocessor_config.json of a LLaVA checkpoint.

    Raises:
        CheckpointError: If it is no LLaVA, of an unsupported family, or a field is wrong; all faults at once.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    layout = _detect_layout(config, directory)
    faults: list[str] = []
    read = _read_hf if layout == "hf" else _read_original
    result = read(config, _read_preprocessor(directory), faults)
    if faults:
        raise CheckpointError(
            list_faults(f"{directory / 'config.json'} cannot be converted:", faults, f"Supported: {SUPPORTED}.")
        )
    return result


def read_tower_config(directory: Path) -> TowerConfig:
    """Reads the config of a CLIP tower on its own (a CLIPModel or CLIPVisionModel directory).

    Raises:
        CheckpointError: If it is no CLIP, or a field is wrong.
    """
    config = read_json(directory / "config.json")
    _check_sections(config, directory)
    section = config.get("vision_config") or config
    faults: list[str] = []
    if config.get("model_type") not in ("clip", "clip_vision_model"):
        faults.append(f"model_type is {config.get('model_type')!r}, expected a CLIP model")
    tower = _tower(section, _CLIP_TOWER, faults)
    if faults:
        raise CheckpointError(list_faults(f"{directory} is no usable vision tower:", faults))
    return tower


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: If the file is missing or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not a checkpoint: it has no {path.name}.") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return data


def _check_sections(config: Mapping[str, Any], directory: Path) -> None:
    faults = [
        f"{key} is {config[key]!r}, expected {expected}"
        for key, type_, expected in _SECTIONS
        if config.get(key) is not None and not isinstance(config[key], type_)
    ]
    if faults:
        raise CheckpointError(list_faults(f"{directory / 'config.json'} cannot be converted:", faults))


def _detect_layout(config: Mapping[str, Any], directory: Path) -> str:
    """First match wins; every family that is refused is refused by name."""
    model_type, architecture = str(config.get("model_type", "")), str((config.get("architectures") or [""])[0])
    vision_type = (config.get("vision_config") or {}).get("model_type", "clip_vision_model")
    family = architecture or model_type or "an unknown family"
    if (directory / "adapter_config.json").is_file():
        raise CheckpointError(f"{directory} is a LoRA adapter, which cannot be converted yet. Supported: {SUPPORTED}.")
    if model_type == "llava_next" or architecture.startswith("LlavaNext") or "image_grid_pinpoints" in config:
        raise CheckpointError(
            f"{directory} is LLaVA-1.6 ({family}), which cannot be converted yet. Supported: {SUPPORTED}."
        )
    if architecture == "LlavaForConditionalGeneration" or (model_type == "llava" and "text_config" in config):
        if vision_type != "clip_vision_model":
            raise CheckpointError(
                f"{directory} has a {vision_type!r} tower (Pixtral and others), not CLIP. Supported: {SUPPORTED}."
            )
        return "hf"
    if any(key.startswith("mm_") for key in config) and model_type in _ORIGINAL_MODEL_TYPES:
        return "original"
    raise CheckpointError(
        f"{directory} is {family} (model_type {model_type!r}), not supported. Supported: {SUPPORTED}."
    )


def _read_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any], faults: list[str]) -> CheckpointConfig:
    text = config.get("text_config") or {}
    if text.get("model_type", "llama") != "llama":
        faults.append(f"text_config.model_type is {text['model_type']!r}, expected 'llama'")
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        faults.append(f"vision_feature_select_strategy is {strategy!r}, expected 'default' or 'full'")
    if config.get("projector_hidden_act", "gelu") != "gelu":
        faults.append(f"projector_hidden_act is {config['projector_hidden_act']!r}, expected 'gelu'")
    if config.get("multimodal_projector_bias", True) is not True:
        faults.append("multimodal_projector_bias is false, expected true")
    vision = config.get("vision_config")
    return CheckpointConfig(
        layout="hf",
        tower=_tower(vision or {}, _CLIP_TOWER if vision else _LLAVA_TOWER, faults),
        tower_reference=None,
        feature_layer=_feature_layer(config.get("vision_feature_layer", -2), "vision_feature_layer", faults),
        drop_cls=strategy == "default",
        # The hub's processors crop, yet the models were trained padded; only an explicit do_pad false keeps the crop.
        aspect="crop" if preprocessor.get("do_pad") is False else "pad",
        image_mean=_triple(preprocessor, "image_mean", _CLIP_MEAN, faults),
        image_std=_triple(preprocessor, "image_std", _CLIP_STD, faults),
        image_token=config.get("image_token_index", config.get("image_token_id")),
        language=_language(text, faults),
    )


def _read_original(config: Mapping[str, Any], preprocessor: Mapping[str, Any], faults: list[str]) -> CheckpointConfig:
    kind = config.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        faults.append(f"mm_projector_type is {kind!r}, expected 'mlp2x_gelu'")
    if config.get("mm_use_im_start_end", False):
        faults.append("mm_use_im_start_end is true (LLaVA v0/v1), which is not supported yet")
    if config.get("s2", False):
        faults.append("s2 (multi-scale towers) is not supported")
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        faults.append(f"mm_vision_select_feature is {feature!r}, expected 'patch' or 'cls_patch'")
    ratio = config.get("image_aspect_ratio") or "square"
    if ratio not in ("square", "pad"):
        faults.append(f"image_aspect_ratio is {ratio!r}, expected 'square' or 'pad'")
    return CheckpointConfig(
        layout="original",
        tower=None,
        tower_reference=config.get("mm_vision_tower"),
        feature_layer=_feature_layer(config.get("mm_vision_select_layer", -2), "mm_vision_select_layer", faults),
        drop_cls=feature == "patch",
        aspect="pad" if ratio == "pad" else "crop",
        image_mean=_triple(preprocessor, "image_mean", _CLIP_MEAN, faults),
        image_std=_triple(preprocessor, "image_std", _CLIP_STD, faults),
        image_token=None,
        language=_language(config, faults),
    )


def _tower(section: Mapping[str, Any], defaults: Mapping[str, int], faults: list[str]) -> TowerConfig:
    sizes = {key: _count(section, key, default, faults, "vision_config.") for key, default in defaults.items()}
    if sizes["image_size"] % sizes["patch_size"]:
        faults.append(f"vision image_size {sizes['image_size']} is no multiple of patch_size {sizes['patch_size']}")
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        faults.append(
            f"vision hidden_size {sizes['hidden_size']} is no multiple of its {sizes['num_attention_heads']} heads"
        )
    return TowerConfig(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        n_layers=sizes["num_hidden_layers"],
        n_heads=sizes["num_attention_heads"],
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        layer_norm_eps=_number(section, "layer_norm_eps", 1e-5, faults),
        hidden_act=str(section.get("hidden_act", "quick_gelu")),
    )


def _language(section: Mapping[str, Any], faults: list[str]) -> LanguageConfig:
    counts = {
        key: _count(section, key, int(default), faults)
        for key, default in _LLAMA.items()
        if default > 1 and key != "rope_theta"
    }
    n_embd, n_head = counts["hidden_size"], counts["num_attention_heads"]
    n_head_kv = _count(section, "num_key_value_heads", n_head, faults)
    head_dim = _count(section, "head_dim", max(1, n_embd // n_head), faults)
    if not section.get("head_dim") and n_embd % n_head:
        faults.append(f"hidden_size {n_embd} is no multiple of num_attention_heads {n_head}")
    if n_head % n_head_kv:
        faults.append(f"num_attention_heads {n_head} is no multiple of num_key_value_heads {n_head_kv}")
    if head_dim % 2:
        faults.append(f"head_dim {head_dim} is odd, which rotary positions do not allow")
    if section.get("hidden_act", "silu") != "silu":
        faults.append(f"hidden_act is {section['hidden_act']!r}, expected 'silu'")
    faults += [f"{key} is true, expected false" for key in ("attention_bias", "mlp_bias") if section.get(key)]
    return LanguageConfig(
        n_embd=n_embd,
        n_ff=counts["intermediate_size"],
        n_layer=counts["num_hidden_layers"],
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_rows=counts["vocab_size"],
        n_ctx_train=counts["max_position_embeddings"],
        rms_eps=_number(section, "rms_norm_eps", _LLAMA["rms_norm_eps"], faults),
        rope_theta=_number(section, "rope_theta", _LLAMA["rope_theta"], faults),
        rope_factor=_rope_factor(section.get("rope_scaling"), faults),
        tied=bool(section.get("tie_word_embeddings", False)),
    )


def _rope_factor(scaling: Any, faults: list[str]) -> float | None:
    if scaling is None:
        return None
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else scaling
    if kind == "default":
        return None
    if kind != "linear":
        faults.append(f"rope_scaling is {kind!r}, expected none or 'linear'")
        return None
    return _number(scaling, "factor", 0.0, faults)


def _feature_layer(value: Any, key: str, faults: list[str]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    faults.append(f"{key} is {value!r}, expected one integer")
    return -2


def _count(section: Mapping[str, Any], key: str, default: int, faults: list[str], prefix: str = "") -> int:
    value = section.get(key)
    if value is None:
        return default
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
        return value
    faults.append(f"{prefix}{key} is {value!r}, expected a positive integer")
    return default


def _number(section: Mapping[str, Any], key: str, default: float, faults: list[str]) -> float:
    value = section.get(key, default)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    faults.append(f"{key} is {value!r}, expected a positive number")
    return 1.0


def _triple(
    section: Mapping[str, Any], key: str, default: tuple[float, float, float], faults: list[str]
) -> tuple[float, float, float]:
    value = section.get(key, default)
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(x, (int, float)) for x in value):
        red, green, blue = (float(x) for x in value)
        if all(math.isfinite(x) for x in (red, green, blue)) and (key != "image_std" or min(red, green, blue) > 0):
            return red, green, blue
    expected = "three positive numbers" if key == "image_std" else "three numbers"
    faults.append(f"preprocessor_config.json: {key} is {value!r}, expected {expected}")
    return default


def _read_preprocessor(directory: Path) -> Mapping[str, Any]:
    path = directory / "preprocessor_config.json"
    return read_json(path) if path.is_file() else {}
