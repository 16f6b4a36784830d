"""Rotary positions of a language model: base frequency and linear scaling, from the keys of transformers 4 and 5.

transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes `rope_parameters`, flat or by layer type:

    {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0}
    {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}

Source: transformers' modeling_rope_utils (`RotaryEmbeddingConfigMixin`), versions 4.57 and 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_llava.converters.json_file import plain, shown

# What a section of parameters may contain besides its type, without effect on the types that are converted.
_UNUSED_PARAMETERS = ("original_max_position_embeddings",)
_NEUTRAL_PARAMETERS = {"partial_rotary_factor": 1, "attention_factor": 1}
_MAX_NUMBER = 1e12


@dataclass(frozen=True)
class Rope:
    """Rotary positions, in a form that GGUF can state exactly.

    Attributes:
        theta: Base frequency.
        factor: Positions are divided by it; None if they are not scaled.
    """

    theta: float
    factor: float | None


@dataclass(frozen=True)
class _Statement:
    """What one key states; None for what it does not state.

    Attributes:
        key: The key, for messages.
        theta: Base frequency.
        factor: Linear factor; 0.0 states that positions are not scaled.
    """

    key: str
    theta: float | None = None
    factor: float | None = None


def read_rope(section: Mapping[str, Any], default_theta: float, faults: list[str]) -> Rope:
    """Reads all keys that state rotary positions, and adds what is wrong or contradictory to `faults`.

    Args:
        section: The language model's config.
        default_theta: Base frequency if no key states it.
        faults: List to add to.
    """
    statements = []
    if section.get("rope_theta") is not None:
        statements.append(_Statement("rope_theta", theta=_positive(section, "rope_theta", "", faults)))
    for key in ("rope_scaling", "rope_parameters"):
        statements += _read(section.get(key), key, faults)
    theta, factor = _agree(statements, "theta", faults), _agree(statements, "factor", faults)
    in_parameters_only = all(s.theta is None or s.key.startswith("rope_parameters") for s in statements)
    if section.get("rope_scaling") and in_parameters_only and theta not in (None, default_theta):
        faults.append(
            f"rope_scaling is set, and rope_theta {theta} is in rope_parameters only, which transformers then "
            "ignores. Remove rope_scaling, or state rope_theta next to it"
        )
    return Rope(default_theta if theta is None else theta, factor or None)


def _read(value: Any, key: str, faults: list[str]) -> list[_Statement]:
    """Reads the statements of `rope_scaling` or `rope_parameters`: one, or one for each layer type."""
    if value is None or value == {}:
        return []
    if not isinstance(value, dict):
        faults.append(f"{key} is {shown(value)}, expected an object of type 'default' or 'linear'")
        return []
    if not all(isinstance(section, dict) for section in value.values()):
        return [_read_parameters(value, key, faults)]
    return [_read_parameters(section, f"{key}.{plain(layers)}", faults) for layers, section in value.items()]


def _read_parameters(section: Mapping[str, Any], key: str, faults: list[str]) -> _Statement:
    kinds = [section[name] for name in ("rope_type", "type") if section.get(name) is not None]
    kind = kinds[0] if kinds else "default"
    if kind not in ("default", "linear") or any(other != kind for other in kinds):
        faults.append(f"{key} is {' and '.join(map(shown, kinds))}, expected none, 'default' or 'linear'")
        return _Statement(key)
    known = {"rope_type", "type", "rope_theta", "factor", *_UNUSED_PARAMETERS}
    for name, value in section.items():
        if name not in known and value is not None and value != _NEUTRAL_PARAMETERS.get(name):
            faults.append(f"{key}.{plain(name)} is {shown(value)}, which is not supported for the type {kind!r}")
    theta = _positive(section, "rope_theta", f"{key}.", faults) if "rope_theta" in section else None
    if kind == "linear":
        return _Statement(key, theta, _positive(section, "factor", f"{key}.", faults))
    if section.get("factor") not in (None, 1):
        faults.append(f"{key} is of type 'default' and has the factor {shown(section['factor'])}")
    return _Statement(key, theta, 0.0)


def _agree(statements: list[_Statement], field: str, faults: list[str]) -> float | None:
    """Returns the one value that all statements have for a field; None if none states it."""
    stated = {s.key: value for s in statements if (value := getattr(s, field)) is not None}
    if len(set(stated.values())) > 1:
        values = ", ".join(f"{key} {value or 'none'}" for key, value in stated.items())
        faults.append(f"the keys of rotary positions contradict each other ({field}: {values})")
    return next(iter(stated.values()), None)


def _positive(section: Mapping[str, Any], name: str, prefix: str, faults: list[str]) -> float | None:
    value = section.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MAX_NUMBER:
        return float(value)
    faults.append(f"{prefix}{name} is {shown(value)}, expected a positive number")
    return None
