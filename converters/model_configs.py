"""The two models inside a LLaVA, as trained: a CLIP vision tower and a LLaMA. Read from their config sections.

Source: transformers' LlavaConfig, CLIPVisionConfig and LlamaConfig, whose defaults fill sparse sections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def read_tower(section: Mapping[str, Any], faults: list[str], *, is_inside_llava: bool) -> TowerConfig:
    """Reads a vision section; what is wrong is added to `faults`.

    Args:
        section: `vision_config`, or the config of a tower on its own; may be sparse.
        faults: List to add to.
        is_inside_llava: An empty section then means LLaVA's default tower, not CLIP's.
    """
    defaults = _LLAVA_TOWER if is_inside_llava and not section else _CLIP_TOWER
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


def read_language(section: Mapping[str, Any], faults: list[str]) -> LanguageConfig:
    """Reads a LLaMA section, which may be sparse; what is wrong is added to `faults`."""
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
        n_ctx_train=_context(section, counts["max_position_embeddings"]),
        rms_eps=_number(section, "rms_norm_eps", _LLAMA["rms_norm_eps"], faults),
        rope_theta=_number(section, "rope_theta", _LLAMA["rope_theta"], faults),
        rope_factor=_rope_factor(section.get("rope_scaling"), faults),
        tied=bool(section.get("tie_word_embeddings", False)),
    )


def _context(section: Mapping[str, Any], n_positions: int) -> int:
    """Mistral's blocks look back a window at most; within it they are LLaMA's. v0 named its context otherwise."""
    lengths = [section.get(key) for key in ("sliding_window", "max_sequence_length")]
    return min([n_positions, *(n for n in lengths if isinstance(n, int) and n > 0)])


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
