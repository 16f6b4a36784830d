"""Merges an adapter by peft, one module at a time: peft reads the config, builds the layers and merges them.

Independent of `lora`, whose merge is compared with this one.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_llava.converters.json_file import read_json
from edge_llava.converters.lora import find_adapter_file
from edge_llava.converters.tensor_store import TensorInfo, TensorStore
from edge_llava.errors import ConversionError

_PREFIX = "base_model.model."
_TRAINED = (".lora_", ".token_adapter.trainable_tokens_delta")  # what peft adds to a module
_WRAPPERS = (".token_adapter.base_layer.", ".base_layer.", ".modules_to_save.default.", ".modules_to_save.")
# Settings that say which modules have factors, or how they were trained; here the tensors decide.
_UNUSED = {
    "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None, "modules_to_save": None,
    "auto_mapping": None, "eva_config": None, "corda_config": None, "lora_ga_config": None, "lora_dropout": 0.0,
    "task_type": None,
}  # fmt: skip

_COMPANION = "companion"


class ReferenceAdapter:
    """An adapter, read by peft.

    Attributes:
        whole: Parameters that the adapter replaces, by transformers' names.
        modules: The adapter's own name of each module that peft merges something into, by transformers' name.
    """

    def __init__(self, directory: Path, rename: Callable[[str], str]) -> None:
        """
        Args:
            directory: The adapter.
            rename: Returns transformers' name of a parameter, from one in a file.
        """
        self._config = read_json(directory / "adapter_config.json")
        file = find_adapter_file(directory)
        self.whole = TensorStore([file], lambda name: None if _is_trained(name) else rename(_plain(name)))
        self._trained = TensorStore([file], lambda name: name if _is_trained(name) else None)
        paths = {_module_path(name) for name in self._trained.infos}
        self.modules = {rename(f"{path}.weight").rpartition(".")[0]: path for path in paths}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Tensors to be merged, by the file's names."""
        return self._trained.infos

    def merge(self, module_name: str, module: nn.Module) -> nn.Module:
        """Merges what the adapter adds to a module of the base.

        Args:
            module_name: transformers' name.
            module: The module with the base's weights in float32; it is changed.

        Raises:
            ConversionError: If peft does not load it, or not all of it.
        """
        from peft import get_peft_model
        from peft.utils import set_peft_model_state_dict

        path = self.modules[module_name]
        tensors = {
            name.replace(".default", ""): self._trained.load(name).float()
            for name in self._trained.infos
            if _module_path(name) == path
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft comments on models that are not transformers'
            try:
                adapted = get_peft_model(_nest(path, module), self._config_of(path, tensors))
                result = set_peft_model_state_dict(adapted, tensors)
                merged = adapted.merge_and_unload(safe_merge=True)
            except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, ImportError) as error:
                raise ConversionError(f"peft cannot merge the adapter's {path}: {error}") from error
        missing = [name for name in result.missing_keys if _is_trained(name) and _module_path(name) == path]
        left = [*result.unexpected_keys, *missing]
        if left:
            raise ConversionError(f"peft does not load all of the adapter's {path}: {', '.join(left)}")
        found: nn.Module = merged.get_submodule(path)
        return found

    def _config_of(self, path: str, tensors: Mapping[str, torch.Tensor]) -> Any:
        from peft import LoraConfig

        known = {field.name for field in dataclasses.fields(LoraConfig)} - {"peft_type", "runtime_config"}
        settings = {key: value for key, value in self._config.items() if key in known} | _UNUSED
        if any(".lora_" in name for name in tensors):
            settings["target_modules"] = [path]
        else:
            settings |= {"target_modules": [_COMPANION], "init_lora_weights": True}
        rows = settings.get("trainable_token_indices")
        names = {"embed_tokens": rows} if isinstance(rows, list) else rows or {}
        mine = {name: indices for name, indices in names.items() if f".{path}".endswith(f".{name}")}
        if "trainable_token_indices" in settings:
            settings["trainable_token_indices"] = mine or None
        return LoraConfig(**{key: value for key, value in settings.items() if key in known})


def _is_trained(name: str) -> bool:
    return any(mark in name for mark in _TRAINED)


def _module_path(name: str) -> str:
    for mark in _TRAINED:
        name = name.partition(mark)[0]
    return name.removeprefix(_PREFIX)


def _plain(name: str) -> str:
    """Returns the name of a parameter in the base, from that of one that was saved whole."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, ".")
    return name.removeprefix(_PREFIX)


def _nest(path: str, module: nn.Module) -> nn.Module:
    """Builds a model with this module in its place, and a companion that takes factors if this one has none."""
    root = parent = nn.Module()
    root.add_module(_COMPANION, nn.Linear(1, 1))
    *parts, last = path.split(".")
    for part in parts:
        child = nn.Module()
        parent.add_module(part, child)
        parent = child
    parent.add_module(last, module)
    return root
