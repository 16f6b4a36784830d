"""Rotary positions of a language model: base frequency and scaling, from the keys of transformers 4 and 5.

transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes `rope_parameters`, flat or by layer type:

    {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0}
    {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}

Source: transformers' modeling_rope_utils (`RotaryEmbeddingConfigMixin`, `_compute_llama3_parameters`), versions 4.57
and 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.converters.json_file import plain, shown

_TYPES = "none, 'default', 'linear' or 'llama3'"
# What a section of parameters may contain besides its type, without effect on the types that are converted.
_UNUSED_PARAMETERS = ("original_max_position_embeddings",)
_NEUTRAL_PARAMETERS = {"partial_rotary_factor": 1, "attention_factor": 1}
_MAX_NUMBER = 1e12


@dataclass(frozen=True)
class Llama3Scaling:
    """The scaling of Llama 3.1: long waves are stretched, short ones are kept, and those between are blended.

    Attributes:
        factor: By which long waves are stretched.
        low_freq_factor: Waves longer than `n_ctx_original` divided by it are long.
        high_freq_factor: Waves shorter than `n_ctx_original` divided by it are short.
        n_ctx_original: Positions that the model was trained for before it was scaled.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    n_ctx_original: float

    def divisors(self, theta: float, head_dim: int) -> NDArray[np.float64]:
        """Returns what each frequency is divided by, (head_dim / 2,), from 1 to `factor`."""
        waves = 2 * np.pi / _frequencies(theta, head_dim)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = np.clip((self.n_ctx_original / waves - low) / (high - low), 0.0, 1.0)  # the part that is not stretched
        return 1 / ((1 - kept) / self.factor + kept)


@dataclass(frozen=True)
class Rope:
    """Rotary positions, in a form that GGUF can state exactly.

    Attributes:
        theta: Base frequency.
        factor: Positions are divided by it; None if they are not scaled, or not all alike.
        llama3: How frequencies are scaled apart from each other; None if they are not.
    """

    theta: float
    factor: float | None
    llama3: Llama3Scaling | None = None

    def frequencies(self, head_dim: int) -> NDArray[np.float64]:
        """Returns the angle per position of each pair of a head, (head_dim / 2,), in radians."""
        divisors = 1.0 if self.llama3 is None else self.llama3.divisors(self.theta, head_dim)
        return _frequencies(self.theta, head_dim) / divisors / (self.factor or 1.0)

    def to_rope_scaling(self) -> dict[str, Any] | None:
        """Returns transformers 4's `rope_scaling`."""
        if self.llama3 is not None:
            return {"rope_type": "llama3"} | {key: getattr(self.llama3, ours) for key, ours in _LLAMA3_KEYS.items()}
        return None if self.factor is None else {"rope_type": "linear", "factor": self.factor}


# The config's keys and the fields of Llama3Scaling.
_LLAMA3_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "n_ctx_original",
}


@dataclass(frozen=True)
class _Statement:
    """What one key states; None for what it does not state.

    Attributes:
        key: The key, for messages.
        theta: Base frequency.
        factor: Linear factor, or Llama 3.1's scaling; 0.0 states that positions are not scaled.
    """

    key: str
    theta: float | None = None
    factor: float | Llama3Scaling | None = None


def read_rope(
    section: Mapping[str, Any], default_theta: float, faults: list[str], *, ignores_scaling: bool = False
) -> Rope:
    """Reads all keys that state rotary positions, and adds what is wrong or contradictory to `faults`.

    Args:
        section: The language model's config.
        default_theta: Base frequency if no key states it.
        faults: List to add to.
        ignores_scaling: Whether the model's own code sets `rope_scaling` to none, whatever the config says.
    """
    if ignores_scaling:
        section = {key: value for key, value in section.items() if key != "rope_scaling"}
    statements = []
    if section.get("rope_theta") is not None:
        statements.append(_Statement("rope_theta", theta=_positive(section, "rope_theta", "", faults)))
    for key in ("rope_scaling", "rope_parameters"):
        statements += _read(section.get(key), key, faults)
    theta, scaling = _agree(statements, "theta", faults), _agree(statements, "factor", faults)
    in_parameters_only = all(s.theta is None or s.key.startswith("rope_parameters") for s in statements)
    if section.get("rope_scaling") and in_parameters_only and theta not in (None, default_theta):
        faults.append(
            f"rope_scaling is set, and rope_theta {theta} is in rope_parameters only, which transformers then "
            "ignores. Remove rope_scaling, or state rope_theta next to it"
        )
    theta = default_theta if theta is None else theta
    return Rope(theta, None, scaling) if isinstance(scaling, Llama3Scaling) else Rope(theta, scaling or None)


def _read(value: Any, key: str, faults: list[str]) -> list[_Statement]:
    """Reads the statements of `rope_scaling` or `rope_parameters`: one, or one for each layer type."""
    if value is None or value == {}:
        return []
    if not isinstance(value, dict):
        faults.append(f"{key} is {shown(value)}, expected an object of type 'default', 'linear' or 'llama3'")
        return []
    if not all(isinstance(section, dict) for section in value.values()):
        return [_read_parameters(value, key, faults)]
    return [_read_parameters(section, f"{key}.{plain(layers)}", faults) for layers, section in value.items()]


def _read_parameters(section: Mapping[str, Any], key: str, faults: list[str]) -> _Statement:
    kinds = [section[name] for name in ("rope_type", "type") if section.get(name) is not None]
    kind = kinds[0] if kinds else "default"
    if kind not in ("default", "linear", "llama3") or any(other != kind for other in kinds):
        faults.append(f"{key} is {' and '.join(map(shown, kinds))}, expected {_TYPES}")
        return _Statement(key)
    known = {"rope_type", "type", "rope_theta", "factor", *_UNUSED_PARAMETERS}
    if kind == "llama3":
        known |= _LLAMA3_KEYS.keys()
    for name, value in section.items():
        if name not in known and value is not None and value != _NEUTRAL_PARAMETERS.get(name):
            faults.append(f"{key}.{plain(name)} is {shown(value)}, which is not supported for the type {kind!r}")
    theta = _positive(section, "rope_theta", f"{key}.", faults) if "rope_theta" in section else None
    if kind == "llama3":
        return _Statement(key, theta, _read_llama3(section, key, faults))
    if kind == "linear":
        return _Statement(key, theta, _positive(section, "factor", f"{key}.", faults))
    if section.get("factor") not in (None, 1):
        faults.append(f"{key} is of type 'default' and has the factor {shown(section['factor'])}")
    return _Statement(key, theta, 0.0)


def _read_llama3(section: Mapping[str, Any], key: str, faults: list[str]) -> Llama3Scaling | None:
    numbers = {ours: _positive(section, name, f"{key}.", faults) for name, ours in _LLAMA3_KEYS.items()}
    stated = {name: number for name, number in numbers.items() if number is not None}
    if len(stated) < len(numbers):
        return None
    scaling = Llama3Scaling(**stated)
    if scaling.high_freq_factor > scaling.low_freq_factor:
        return scaling
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    faults.append(f"{key}.high_freq_factor is {high}, expected more than low_freq_factor, {low}")
    return None


def _agree(statements: list[_Statement], field: str, faults: list[str]) -> Any:
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


def _frequencies(theta: float, head_dim: int) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    return frequencies
