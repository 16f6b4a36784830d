"""A peft adapter's adapter_config.json: an allow-list of the settings that are merged exactly.

A key is bookkeeping, or is read here, or must have its neutral value; any other key is refused by name.

Source: peft's LoraConfig (0.3 to 0.21), `get_pattern_key` for the patterns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import read_json
from edge_llava.errors import CheckpointError, list_faults

# Who made the adapter, how it was trained, and which modules it covers, which the tensors show anyway.
_BOOKKEEPING = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "rank_pattern", "revision",
    "runtime_config", "target_modules", "task_type",
})  # fmt: skip
_READ = frozenset({
    "bias", "init_lora_weights", "lora_alpha", "lora_bias", "r", "trainable_token_indices", "use_dora", "use_rslora",
})  # fmt: skip
# Initializations that change only the adapter's factors. All others change the base as well.
_INITS_OF_FACTORS = (None, True, False, "gaussian", "orthogonal", "eva")
_BASE_CHANGED = (
    "it changed the base as well. Save the adapter with peft's save_pretrained(..., "
    "path_initial_model_for_weight_conversion=DIR), or merge it with peft and convert the merged model"
)
_NAME = re.compile(r"\^?(?:[A-Za-z0-9_-]|\\?\.)+\$?")
_LONGEST = 80  # characters of a value that a message shows


@dataclass(frozen=True)
class ModulePattern:
    """Which modules a key of rank_pattern or alpha_pattern names: a name or its end, never an expression.

    Attributes:
        name: Dotted name, or the last parts of one.
        is_whole: Whether it must be the module's full name (the key began with "^").
    """

    name: str
    is_whole: bool

    @classmethod
    def parse(cls, key: str) -> ModulePattern | None:
        """Reads a key; None if it is more than a name with "^", "$" or escaped dots."""
        if _NAME.fullmatch(key) is None:
            return None
        return cls(key.removeprefix("^").removesuffix("$").replace("\\.", "."), key.startswith("^"))

    def matches(self, module: str) -> bool:
        """Whether it names a module, by the module's full name."""
        return module == self.name or (not self.is_whole and module.endswith(f".{self.name}"))


@dataclass(frozen=True)
class AdapterConfig:
    """How an adapter is merged.

    Attributes:
        rank, alpha: For all modules that no pattern matches.
        rank_pattern, alpha_pattern: The first pattern that matches a module applies.
        is_rank_stabilized: Scale by alpha / sqrt(rank) instead of alpha / rank.
        has_bias: B has a bias as well.
        is_dora: Rows are rescaled to trained lengths after the factors are added.
        token_rows: Rows of an embedding that the adapter replaces, by the module's name.
    """

    rank: int
    alpha: float
    rank_pattern: tuple[tuple[ModulePattern, int], ...]
    alpha_pattern: tuple[tuple[ModulePattern, float], ...]
    is_rank_stabilized: bool
    has_bias: bool
    is_dora: bool
    token_rows: Mapping[str, tuple[int, ...]]

    def rank_of(self, module: str) -> int:
        """Rank of a module, by its name in the adapter."""
        return next((rank for pattern, rank in self.rank_pattern if pattern.matches(module)), self.rank)

    def scale(self, module: str) -> float:
        """Factor of B A for a module, by its name in the adapter."""
        rank = self.rank_of(module)
        alpha = next((alpha for pattern, alpha in self.alpha_pattern if pattern.matches(module)), self.alpha)
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank


def read_adapter_config(path: Path) -> AdapterConfig:
    """Reads an adapter_config.json.

    Raises:
        CheckpointError: If it cannot be read, or asks for something that cannot be merged; all faults at once.
    """
    config = read_json(path)
    faults = _unmergeable(config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_rank(rank):
        faults.append(f"r is {_show(rank)}, expected a positive integer")
    if not _is_finite(alpha):
        faults.append(f"lora_alpha is {_show(alpha)}, expected a number")
    result = AdapterConfig(
        rank=rank if isinstance(rank, int) else 1,
        alpha=float(alpha) if isinstance(alpha, (int, float)) and _is_finite(alpha) else 1.0,
        rank_pattern=_read_pattern(config, "rank_pattern", _is_rank, "positive integers", faults),
        alpha_pattern=_read_pattern(config, "alpha_pattern", _is_finite, "numbers", faults),
        is_rank_stabilized=_read_switch(config, "use_rslora", faults),
        has_bias=_read_switch(config, "lora_bias", faults),
        is_dora=_read_switch(config, "use_dora", faults),
        token_rows=_read_token_rows(config.get("trainable_token_indices"), faults),
    )
    if faults:
        raise CheckpointError(list_faults(f"{path} cannot be used:", faults))
    return result


def _unmergeable(config: Mapping[str, Any]) -> list[str]:
    """Lists the settings that cannot be merged here."""
    faults = []
    if config.get("peft_type", "LORA") != "LORA":
        faults.append(f"peft_type is {_show(config['peft_type'])}, expected 'LORA'")
    init = config.get("init_lora_weights", True)
    if not any(init is known or (isinstance(init, str) and init == known) for known in _INITS_OF_FACTORS):
        faults.append(f"init_lora_weights is {_show(init)}: {_BASE_CHANGED}")
    if config.get("bias", "none") not in (None, "none", "all", "lora_only"):
        faults.append(f"bias is {_show(config['bias'])}, expected 'none', 'all' or 'lora_only'")
    others = sorted(config.keys() - _BOOKKEEPING - _READ)
    faults += [
        f"{key[:_LONGEST]} is {_show(config[key])}, which cannot be merged here. "
        "Merge the adapter with peft and convert the merged model"
        for key in others
        if config[key] not in (None, False, [], {})
    ]
    return faults


def _read_pattern(
    config: Mapping[str, Any], key: str, is_value: Callable[[Any], bool], expected: str, faults: list[str]
) -> tuple[tuple[ModulePattern, Any], ...]:
    found = config.get(key) or {}
    if not (isinstance(found, dict) and all(is_value(value) for value in found.values())):
        faults.append(f"{key} is {_show(found)}, expected names with {expected}")
        return ()
    patterns = {name: ModulePattern.parse(name) for name in found}
    faults += [
        f"{key} has the key {_show(name)}, expected the name of a module or its end; expressions are not evaluated"
        for name, pattern in patterns.items()
        if pattern is None
    ]
    return tuple((pattern, found[name]) for name, pattern in patterns.items() if pattern is not None)


def _read_switch(config: Mapping[str, Any], key: str, faults: list[str]) -> bool:
    value = config.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    faults.append(f"{key} is {_show(value)}, expected true or false")
    return False


def _read_token_rows(value: Any, faults: list[str]) -> dict[str, tuple[int, ...]]:
    """A list means the input embedding; an object names the modules."""
    modules = {"embed_tokens": value} if isinstance(value, list) else {} if value is None else value
    if isinstance(modules, dict) and all(
        isinstance(rows, list) and all(type(row) is int and 0 <= row < 1 << 31 for row in rows)
        for rows in modules.values()
    ):
        return {name: tuple(rows) for name, rows in modules.items()}
    faults.append(f"trainable_token_indices is {_show(value)}, expected a list of ids, or names with lists of ids")
    return {}


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e30


def _show(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a huge integer"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
