"""A LoRA adapter and its base, merged exactly: W + scale * B A in float32.

Source: peft's LoraConfig and adapter files; LLaVA's load_pretrained_model for non_lora_trainables.bin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from edge_llava.converters.json_file import read_json
from edge_llava.converters.tensor_names import own_name
from edge_llava.converters.tensor_store import TensorInfo, TensorSource, TensorStore
from edge_llava.errors import CheckpointError, list_faults

_Number = TypeVar("_Number", int, float)

_PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class LoraConfig:
    """How factors are scaled.

    Attributes:
        rank, alpha: Of all modules but those in the patterns.
        rank_pattern, alpha_pattern: Of modules whose name ends as the key (a regular expression) says.
        is_rank_stabilized: Scale alpha / sqrt(rank) instead of alpha / rank.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    is_rank_stabilized: bool

    def scale(self, module: str) -> float:
        """Of a module, by its name in the base."""
        rank, alpha = _find(self.rank_pattern, module, self.rank), _find(self.alpha_pattern, module, self.alpha)
        return alpha / rank**0.5 if self.is_rank_stabilized else alpha / rank


class LoraStore:
    """The base with the adapter merged in.

    Attributes:
        infos: Of the result.
    """

    def __init__(self, directory: Path, base: TensorSource, layout: str) -> None:
        """
        Args:
            directory: Holds adapter_config.json and adapter_model.safetensors or .bin.
            base: What was adapted.
            layout: Whose names the adapter uses: "hf" or "original".

        Raises:
            CheckpointError: If the adapter cannot be read, or belongs to another base; all faults at once.
        """
        self._config, self._base = _read_config(directory), base
        name_of = _naming(layout)
        self._adapter = TensorStore([_adapter_file(directory)], name_of)
        found = self._adapter.infos
        self._modules = {name.rpartition("|")[0]: name for name in found if name.endswith("|A")}
        self.infos: Mapping[str, TensorInfo] = {**base.infos, **{n: i for n, i in found.items() if "|" not in n}}
        faults = [fault for name in self._modules for fault in self._faults(name)]
        lonely = [name for name in found if name.endswith("|B") and name.rpartition("|")[0] not in self._modules]
        faults += [f"{name.rpartition('|')[0]} has lora_B and no lora_A" for name in lonely]
        if not self._modules:
            faults.append("it holds no pair of lora_A and lora_B")
        if faults:
            raise CheckpointError(
                list_faults(f"{directory} does not fit its base:", faults, "Give the model that it was trained on.")
            )

    def load(self, name: str) -> torch.Tensor:
        """One tensor; float32 where the adapter changed it."""
        if name in self._adapter.infos:
            return self._adapter.load(name)
        tensor = self._base.load(name)
        if name not in self._modules:
            return tensor
        a, b = (self._adapter.load(f"{name}|{factor}").float() for factor in "AB")
        module = self._adapter.infos[f"{name}|A"].source_name.partition(".lora_")[0].removeprefix(_PEFT_PREFIX)
        return tensor.float() + self._config.scale(module) * (b @ a)

    def _faults(self, name: str) -> list[str]:
        found = self._adapter.infos
        if f"{name}|B" not in found:
            return [f"{name} has lora_A and no lora_B"]
        if name not in self._base.infos:
            return [f"{name} is not in the base"]
        (rank, n_in), (n_out, rank_b) = found[f"{name}|A"].shape, found[f"{name}|B"].shape
        shape = self._base.infos[name].shape
        if rank != rank_b or (n_out, n_in) != shape:
            return [f"{name} has shape {shape} in the base, and factors of ({n_out}, {rank_b}) and ({rank}, {n_in})"]
        return []


def trainables_name(source_name: str) -> str | None:
    """Our name of a tensor in non_lora_trainables.bin, whose names carry one or two prefixes too many."""
    name = source_name.removeprefix("base_model.")
    name = name.removeprefix("model.") if name.startswith("model.model.") else name
    return own_name(name, "original")


def _naming(layout: str) -> Callable[[str], str | None]:
    def name_of(source_name: str) -> str | None:
        factor = _FACTOR.fullmatch(source_name)
        plain = (factor[1] + ".weight" if factor else source_name).removeprefix(_PEFT_PREFIX)
        name = own_name(plain, layout)
        if name is None:
            raise CheckpointError(f"the adapter changes {plain!r}, which is not part of a LLaVA in {layout} layout.")
        return f"{name}|{factor[2]}" if factor else name

    return name_of


def _adapter_file(directory: Path) -> Path:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (directory / name).is_file():
            return directory / name
    raise CheckpointError(f"{directory} has neither adapter_model.safetensors nor adapter_model.bin.")


def _read_config(directory: Path) -> LoraConfig:
    path = directory / "adapter_config.json"
    config, faults = read_json(path), list[str]()
    if config.get("peft_type", "LORA") != "LORA":
        faults.append(f"peft_type is {config['peft_type']!r}, expected 'LORA'")
    faults += [f"{key} is set, which cannot be merged" for key in ("use_dora", "fan_in_fan_out") if config.get(key)]
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (type(rank) is int and rank > 0):
        faults.append(f"r is {rank!r}, expected a positive integer")
    if not (isinstance(alpha, (int, float)) and not isinstance(alpha, bool)):
        faults.append(f"lora_alpha is {alpha!r}, expected a number")
    patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    for key, pattern in patterns.items():
        if not (isinstance(pattern, dict) and all(isinstance(v, (int, float)) and v > 0 for v in pattern.values())):
            faults.append(f"{key} is {pattern!r}, expected names with positive numbers")
    if faults:
        raise CheckpointError(list_faults(f"{path} cannot be used:", faults))
    return LoraConfig(
        rank=int(rank),  # type: ignore[arg-type]
        alpha=float(alpha),  # type: ignore[arg-type]
        rank_pattern=patterns["rank_pattern"],
        alpha_pattern=patterns["alpha_pattern"],
        is_rank_stabilized=bool(config.get("use_rslora", False)),
    )


def _find(patterns: Mapping[str, _Number], module: str, default: _Number) -> _Number:
    return next((v for key, v in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", module)), default)
