"""The model that transformers and peft read from a checkpoint's files, with which a conversion is compared.

It is independent of the converters' own reading: transformers reads the config, its model defines the parameters,
its rules map the files' names to them, and peft merges adapters. The model is built without
weights; each tensor is loaded on its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from transformers.modeling_utils import no_init_weights

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.expected_tensors import NEWLINE
from edge_llava.converters.lora import find_adapter_file
from edge_llava.converters.reference_adapter import ReferenceAdapter
from edge_llava.converters.reference_config import ReferenceConfigs, read_reference_configs
from edge_llava.converters.reference_names import our_name, renaming
from edge_llava.converters.tensor_names import unwrap_name
from edge_llava.converters.tensor_store import TensorInfo, TensorStore
from edge_llava.converters.weight_files import find_shards
from edge_llava.errors import CheckpointError, ConversionError, list_faults

_HEAD = "lm_head.weight"
# Embeddings that an adapter may contain in full.
_EMBEDDING = re.compile(r"\bembed_tokens(\.token_adapter)?(\.base_layer|\.modules_to_save)?\.weight\Z")
_ROUNDING = 1e-6  # largest difference between two merges in float32, which may add in different orders
_ROWS = 1024  # compared at a time
_SHOWN = 12  # differences that a message names


class ReferenceModel:
    """A checkpoint as transformers and peft read it.

    Attributes:
        model: Without weights: transformers' LLaVA class, or a language model with LLaVA's other parts attached.
        configs: transformers' configs.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """
        Args:
            checkpoint: Provides the files' places and kinds.

        Raises:
            CheckpointError: If files contain tensors that the model does not have, or lack some; all at once.
            ConversionError: If a config value differs from the converters'; all differences at once.
        """
        self._checkpoint = checkpoint
        adapter_rows = _adapter_rows(checkpoint)
        self.configs: ReferenceConfigs = read_reference_configs(checkpoint, adapter_rows)
        with torch.device("meta"), no_init_weights():
            self.model: nn.Module = self.configs.build_model()
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        self._rename = renaming(self.model, self._shapes)
        self._adapters = self._open_adapters()
        self._base: TensorStore | None = None
        self._stores = self._open_stores()
        self._names = {our_name(name): name for name in self._shapes}
        self._check_names()

    @property
    def language(self) -> nn.Module:
        """The language model without its head and without weights."""
        core = self.model.get_submodule("model")
        return core.get_submodule("language_model") if hasattr(core, "language_model") else core

    @property
    def head_name(self) -> str:
        """Returns our name of the tensor that serves as the head."""
        has_head = any(_HEAD in store.infos for store in self._stores)
        is_own = has_head and not self.configs.language.tie_word_embeddings
        return "language.lm_head.weight" if is_own else "language.embed_tokens.weight"

    def load(self, name: str) -> torch.Tensor:
        """Loads a tensor by our name (see `tensor_names`), in float32, merged.

        Raises:
            ConversionError: If there is no such tensor, or peft does not merge it.
        """
        if name not in self._names:
            raise ConversionError(f"transformers' model of {self._checkpoint.directory} has no {name}.")
        parameter = self._names[name]
        module_name, _, leaf = parameter.rpartition(".")
        adapter = next((adapter for adapter in self._adapters if module_name in adapter.modules), None)
        if adapter is None:
            return self._read(parameter)
        module = copy.deepcopy(self.model.get_submodule(module_name))
        weights = {key: self._read(f"{module_name}.{key}") for key in module.state_dict()}
        module.load_state_dict(weights, assign=True)
        merged: torch.Tensor = adapter.merge(module_name, module).state_dict()[leaf]
        return merged.float()

    def deployed_names(self) -> list[str]:
        """Returns our names of the tensors that a bundle is made of."""
        has_head = any(_HEAD in store.infos for store in self._stores)
        return [ours for ours, name in self._names.items() if self._is_deployed(name) and (name != _HEAD or has_head)]

    def compare(self, names: Iterable[str]) -> None:
        """Compares the tensors that the converters load with this model's.

        Args:
            names: Our names of tensors.

        Raises:
            ConversionError: If values differ; all differences at once.
        """
        faults = [fault for name in names if (fault := self.difference(name, self.load(name))) is not None]
        if faults:
            raise ConversionError(_differences(self._checkpoint, faults))

    def load_compared(self, name: str) -> torch.Tensor:
        """Loads a tensor as `load` does, and compares it.

        Raises:
            ConversionError: If it differs from what the converters load.
        """
        expected = self.load(name)
        fault = self.difference(name, expected)
        if fault is not None:
            raise ConversionError(_differences(self._checkpoint, [fault]))
        return expected

    def difference(self, name: str, expected: torch.Tensor) -> str | None:
        """Describes how a tensor of this model differs from the one the converters load; None if it does not."""
        ours = self._checkpoint.load(name)
        if ours.shape != expected.shape:
            return f"{name} has shape {tuple(expected.shape)}, read as {tuple(ours.shape)}"
        for some, others in zip(torch.split(ours, _ROWS), torch.split(expected, _ROWS), strict=True):
            some = some.float()
            if not (torch.equal(some, others) or torch.allclose(some, others, 0.0, _ROUNDING, equal_nan=True)):
                return f"{name} differs by {float((some - others).abs().max()):.3g}"
        return None

    def _read(self, parameter: str) -> torch.Tensor:
        store = next(store for store in self._stores if parameter in store.infos)
        tensor = store.load(parameter)
        if self._base is not None and parameter in self._base.infos:
            base = self._base.load(parameter)
            tensor[: len(base)] += base.to(tensor.dtype)
        return tensor.float()

    def _open_stores(self) -> list[TensorStore]:
        """Lists the files in the order in which a parameter is looked up."""
        checkpoint, files = self._checkpoint, self._open
        stores = [adapter.whole for adapter in self._adapters]
        if checkpoint.tower_directory is not None:
            # a tower that was trained further is stored with the rest, and takes precedence over its own directory
            tower = TensorStore(find_shards(checkpoint.tower_directory), self._tower_name)
        if checkpoint.parts is not None:
            stores += [
                files(find_shards(checkpoint.parts.language)),
                TensorStore(find_shards(checkpoint.parts.projector), self._projector_name),
            ]
        elif checkpoint.kind == "whole":
            stores.append(files(find_shards(checkpoint.directory)))
        elif checkpoint.base is not None:
            base = files(find_shards(checkpoint.base))
            if checkpoint.kind == "delta":
                self._base = base
                stores.append(files(find_shards(checkpoint.directory)))
            for name in ("mm_projector.bin", "non_lora_trainables.bin"):
                if checkpoint.kind != "delta" and (checkpoint.directory / name).is_file():
                    stores.append(files([checkpoint.directory / name]))
            if checkpoint.kind != "delta":
                stores.append(base)
        return [*stores, tower] if checkpoint.tower_directory is not None else stores

    def _open(self, paths: list[Path]) -> TensorStore:
        return TensorStore(paths, self._rename)

    def _tower_name(self, name: str) -> str:
        return self._rename(f"model.vision_tower.vision_tower.{unwrap_name(name)}")

    def _projector_name(self, name: str) -> str:
        """The name of a projector on its own, whose only layer has a number in xtuner's layout."""
        name = f"model.mm_projector.{name.removeprefix('model.')}"
        return name if name in self._shapes else name.replace(".0.", ".")

    def _open_adapters(self) -> list[ReferenceAdapter]:
        parts = self._checkpoint.parts
        if parts is None:
            directory = _language_adapter(self._checkpoint)
            return [] if directory is None else [ReferenceAdapter(directory, self._rename)]
        found = ((parts.language_adapter, self._rename), (parts.tower_adapter, self._tower_name))
        return [ReferenceAdapter(directory, rename) for directory, rename in found if directory is not None]

    def _check_names(self) -> None:
        stores = [*self._stores, *([] if self._base is None else [self._base])]
        unknown = {
            info.source_name: store.infos[name].shard.name
            for store in stores
            for name, info in store.infos.items()
            if name not in self._shapes
        }
        faults = [f"{name} in {file} is not part of the model" for name, file in unknown.items()]
        modules = {name: path for adapter in self._adapters for name, path in adapter.modules.items()}
        known = {name.rpartition(".")[0] for name in self._shapes}
        faults += [
            f"the adapter's {path} is not part of the model" for name, path in modules.items() if name not in known
        ]
        for name, shape in self._shapes.items():
            found = next((store.infos[name] for store in self._stores if name in store.infos), None)
            faults += self._name_faults(name, shape, found)
        if faults:
            raise CheckpointError(_differences(self._checkpoint, faults))

    def _name_faults(self, name: str, shape: tuple[int, ...], found: TensorInfo | None) -> list[str]:
        if found is not None:
            return [] if found.shape == shape else [f"{name} has shape {found.shape}, expected {shape}"]
        if (name == _HEAD and self.configs.is_tied) or not self._is_deployed(name):
            return []
        return [f"{name} is missing"]

    def _is_deployed(self, name: str) -> bool:
        """Whether a parameter is deployed, unlike blocks after the selected layer and an unused newline row."""
        ours = our_name(name)
        if ours == NEWLINE:
            return self._checkpoint.config.has_newline
        block = re.match(r"vision\.encoder\.layers\.(\d+)\.", ours)
        return not ours.startswith(self._checkpoint.tower.kind.unused) and (
            block is None or int(block[1]) < self._checkpoint.n_blocks
        )


def _adapter_rows(checkpoint: Checkpoint) -> int | None:
    """Returns the rows of an adapter's own embedding, for added tokens; None if it has none."""
    directory = _language_adapter(checkpoint)
    if directory is None:
        return None
    store = TensorStore([find_adapter_file(directory)], lambda name: name)
    rows = [info.shape[0] for name, info in store.infos.items() if _EMBEDDING.search(name) and info.shape]
    return rows[0] if rows else None


def _language_adapter(checkpoint: Checkpoint) -> Path | None:
    """Where the adapter lies that changes the language model, and in other layouts than xtuner's the rest as well."""
    if checkpoint.parts is not None:
        return checkpoint.parts.language_adapter
    is_adapter = checkpoint.kind == "lora" and (checkpoint.directory / "adapter_config.json").is_file()
    return checkpoint.directory if is_adapter else None


def check_reading(checkpoint: Checkpoint) -> None:
    """Compares the converters' reading of a checkpoint with transformers' and peft's, before any slow work.

    This covers config values, the names and shapes of all tensors, and the values of tower and projector. The values of
    the language model are compared block by block when its reference is computed.

    Raises:
        CheckpointError: If files contain what the model does not have, or lack something; all at once.
        ConversionError: If the converters read another model; all differences at once.
    """
    reference = ReferenceModel(checkpoint)
    names = [name for name in reference.deployed_names() if not name.startswith("language.")]
    reference.compare(names)


def _differences(checkpoint: Checkpoint, faults: list[str]) -> str:
    more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return list_faults(
        f"{checkpoint.directory}: transformers does not read the model that would be converted:",
        faults[:_SHOWN] + more,
        "Nothing is converted.",
    )
