"""Merges an adapter into its base exactly as peft does, in float32: W + scale * B A, one tensor at a time.

Source: peft's adapter files, its lora.Linear, lora.Embedding, DoraLinearVariant and TrainableTokensLayer; LLaVA's
load_pretrained_model for non_lora_trainables.bin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_llava.converters.adapter_config import read_adapter_config
from edge_llava.converters.tensor_names import own_name
from edge_llava.converters.tensor_store import TensorInfo, TensorSource, TensorStore
from edge_llava.errors import CheckpointError, list_faults

_PEFT_PREFIX = "base_model.model."
# Endings of peft's names, the change that each makes, and the parameter of the module that it changes.
_CHANGES = (
    (re.compile(r"\.lora_A(\.default)?\.weight\Z"), "A", "weight"),
    (re.compile(r"\.lora_B(\.default)?\.weight\Z"), "B", "weight"),
    (re.compile(r"\.lora_embedding_A(\.default)?\Z"), "embedding A", "weight"),
    (re.compile(r"\.lora_embedding_B(\.default)?\Z"), "embedding B", "weight"),
    (re.compile(r"\.lora_magnitude_vector(\.default)?(\.weight)?\Z"), "magnitude", "weight"),
    (re.compile(r"\.token_adapter\.trainable_tokens_delta(\.default)?\Z"), "rows", "weight"),
    (re.compile(r"\.lora_B(\.default)?\.bias\Z"), "bias", "bias"),
    (re.compile(r"((\.token_adapter)?\.base_layer|\.modules_to_save(\.default)?)\.weight\Z"), "", "weight"),
    (re.compile(r"(\.base_layer|\.modules_to_save(\.default)?)\.bias\Z"), "", "bias"),
)
# Tensors that may have more rows than the base's, if the adapter was trained with added tokens.
EMBEDDINGS = ("language.embed_tokens.weight", "language.lm_head.weight")
_ROWS_OF_TWO = (
    "trainable_token_indices is set and the base's config.json says tie_word_embeddings neither false nor, for its "
    "language model, true: depending on the version of transformers, peft also changes the head's rows. Merge the "
    "adapter with peft and convert the merged model"
)
# Complete sets of changes to one tensor.
_COMPLETE = (
    {"A", "B"}, {"A", "B", "magnitude"}, {"embedding A", "embedding B"}, {"rows"}, {"bias"},
)  # fmt: skip


@dataclass(frozen=True)
class AdapterTensor:
    """What a tensor of an adapter file changes.

    Attributes:
        module: Name of the module, as in the adapter.
        target: Our name of the tensor that it changes.
        change: "A", "B", "embedding A", "embedding B", "magnitude", "rows" (of an embedding), "bias" (of B),
            or "" if it replaces the target.
    """

    module: str
    target: str
    change: str

    @property
    def key(self) -> str:
        """A name that no other tensor has."""
        return f"{self.target}|{self.change}" if self.change else self.target

    @classmethod
    def parse(cls, source_name: str, layout: str) -> AdapterTensor:
        """Parses a name of an adapter file whose base is in a layout of `tensor_names.own_name`.

        Raises:
            CheckpointError: If it changes something that is not part of a LLaVA.
        """
        name = source_name.removeprefix(_PEFT_PREFIX)
        module, change, target_name = name, "", name
        for pattern, what, parameter in _CHANGES:
            match = pattern.search(name)
            if match is not None:
                module, change = name[: match.start()], what
                target_name = f"{module}.{parameter}"
                break
        target = own_name(target_name, layout)
        if target is None:
            raise CheckpointError(f"the adapter changes {name!r}, which is not part of a LLaVA in {layout} layout.")
        return cls(module, target, change)


class TrainedStore:
    """A base, some of whose tensors were trained in full.

    Attributes:
        infos: Tensors of the result.
    """

    def __init__(self, trained: TensorSource, base: TensorSource) -> None:
        self._trained, self._base = trained, base
        self.infos: Mapping[str, TensorInfo] = {**base.infos, **trained.infos}

    def load(self, name: str) -> torch.Tensor:
        """Returns the trained tensor, else the base's."""
        return (self._trained if name in self._trained.infos else self._base).load(name)


class LoraStore:
    """The base with the adapter merged in.

    Attributes:
        infos: Tensors of the result.
        n_rows: Rows of the embedding if the adapter has its own, for added tokens; else None.
    """

    def __init__(self, directory: Path, base: TensorSource, layout: str, *, says_whether_tied: bool) -> None:
        """
        Args:
            directory: Contains adapter_config.json and adapter_model.safetensors or .bin.
            base: The tensors that were adapted.
            layout: The layout whose names the adapter uses, see `tensor_names.own_name`.
            says_whether_tied: Whether the base's config leaves no doubt if the head is the embedding.

        Raises:
            CheckpointError: If the adapter cannot be read, or belongs to another base; all faults at once.
        """
        self._directory = directory
        self._config = read_adapter_config(directory / "adapter_config.json")
        self._adapter = TensorStore([find_adapter_file(directory)], _naming(layout))
        found = {key: AdapterTensor.parse(info.source_name, layout) for key, info in self._adapter.infos.items()}
        whole = {key for key, tensor in found.items() if not tensor.change}
        self._base = TrainedStore(_Subset(self._adapter, whole), base)
        self.infos: Mapping[str, TensorInfo] = self._base.infos
        self._changes: dict[str, dict[str, str]] = {}  # target -> change -> module
        for tensor in found.values():
            if tensor.change:
                self._changes.setdefault(tensor.target, {})[tensor.change] = tensor.module
        faults = [*_whole_faults(whole, base.infos, self.infos), *self._faults()]
        if not says_whether_tied and any("rows" in changes for changes in self._changes.values()):
            faults.append(_ROWS_OF_TWO)
        if not found:
            faults.append(f"{find_adapter_file(directory).name} contains no tensors")
        if faults:
            raise CheckpointError(
                list_faults(f"{directory} does not fit its base:", faults, "Give the model it was trained on.")
            )
        self.n_rows = self.infos[EMBEDDINGS[0]].shape[0] if whole & set(EMBEDDINGS) else None

    def load(self, name: str) -> torch.Tensor:
        """Returns one tensor, in float32 if the adapter changed it.

        Raises:
            CheckpointError: If the result contains infinite or undefined numbers.
        """
        tensor = self._base.load(name)
        changes = self._changes.get(name)
        if changes is None:
            return tensor
        tensor = self._merge(name, tensor.float(), changes)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{self._directory}: merged, {name} contains infinite or undefined numbers.")
        return tensor

    def _merge(self, name: str, tensor: torch.Tensor, changes: Mapping[str, str]) -> torch.Tensor:
        scale = self._config.scale(next(iter(changes.values())))
        if "A" in changes:
            tensor += (self._part(name, "B") @ self._part(name, "A")) * scale
        if "magnitude" in changes:
            tensor *= (self._part(name, "magnitude").flatten() / torch.linalg.norm(tensor, dim=1))[:, None]
        if "embedding A" in changes:
            tensor += (self._part(name, "embedding B") @ self._part(name, "embedding A")).T * scale
        if "rows" in changes:
            tensor[list(self._rows(changes["rows"]) or ())] = self._part(name, "rows")
        if "bias" in changes:
            tensor += self._part(name, "bias") * scale
        return tensor

    def _part(self, name: str, change: str) -> torch.Tensor:
        return self._adapter.load(f"{name}|{change}").float()

    def _rows(self, module: str) -> tuple[int, ...] | None:
        """Returns which rows of an embedding are replaced; None if the config does not say."""
        names = self._config.token_rows
        return next((rows for name, rows in names.items() if f".{module}".endswith(f".{name}")), None)

    def _faults(self) -> list[str]:
        return [fault for name, changes in self._changes.items() for fault in self._faults_of(name, changes)]

    def _faults_of(self, name: str, changes: Mapping[str, str]) -> list[str]:
        if name not in self.infos:
            return [f"{name} is not in the base"]
        if set(changes) not in _COMPLETE:
            return [f"{name} has {' and '.join(sorted(changes))} in the adapter, which is not a complete change"]
        if "A" in changes and ("magnitude" in changes) != self._config.is_dora:
            return [f"{name} does not fit use_dora, which is {str(self._config.is_dora).lower()}"]
        if "bias" in changes and not self._config.has_bias:
            return [f"{name} does not fit lora_bias, which is false"]
        shape, module = self.infos[name].shape, next(iter(changes.values()))
        expected = _expected_shapes(shape, self._config.rank_of(module), self._rows(module))
        return [
            f"{name} has shape {shape}, and in the adapter {change} of {found}, expected {expected.get(change)}"
            for change in changes
            if (found := self._adapter.infos[f"{name}|{change}"].shape) != expected.get(change)
        ] + [
            f"{name} has {shape[0]} rows, and trainable_token_indices names row {row}"
            for row in self._rows(module) or ()
            if "rows" in changes and row >= shape[0]
        ]


@dataclass(frozen=True)
class _Subset:
    """Some of a store's tensors."""

    store: TensorStore
    names: set[str]

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: info for name, info in self.store.infos.items() if name in self.names}

    def load(self, name: str) -> torch.Tensor:
        return self.store.load(name)


def find_adapter_file(directory: Path) -> Path:
    """
    Raises:
        CheckpointError: If there is no adapter_model.safetensors or .bin.
    """
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (directory / name).is_file():
            return directory / name
    raise CheckpointError(f"{directory} has neither adapter_model.safetensors nor adapter_model.bin.")


def trainables_name(source_name: str) -> str | None:
    """Returns our name of a tensor in non_lora_trainables.bin, whose names have one or two prefixes too many."""
    name = source_name.removeprefix("base_model.")
    name = name.removeprefix("model.") if name.startswith("model.model.") else name
    return own_name(name, "original")


def _naming(layout: str) -> Callable[[str], str]:
    return lambda source_name: AdapterTensor.parse(source_name, layout).key


def _whole_faults(names: set[str], base: Mapping[str, TensorInfo], merged: Mapping[str, TensorInfo]) -> list[str]:
    """Lists the faults of the tensors that replace the base's."""
    faults = [f"{name} is not in the base" for name in sorted(names) if name not in base]
    for name in sorted(names & base.keys()):
        ours, theirs = merged[name].shape, base[name].shape
        if ours != theirs and not (name in EMBEDDINGS and ours[1:] == theirs[1:]):
            faults.append(f"{name} has shape {ours} in the adapter, and {theirs} in the base")
    rows = {name: merged[name].shape[0] for name in EMBEDDINGS if name in merged and merged[name].shape}
    if len(set(rows.values())) > 1 and names & set(EMBEDDINGS):
        counts = " and ".join(f"{name} {n} rows" for name, n in rows.items())
        faults.append(f"with the adapter {counts}; both need the rows of the added tokens")
    return faults


def _expected_shapes(shape: tuple[int, ...], rank: int, rows: tuple[int, ...] | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each possible change to a tensor of this shape."""
    if len(shape) == 1:
        return {"bias": shape}
    if len(shape) != 2:
        return {}
    n_out, n_in = shape
    return {
        "A": (rank, n_in),
        "B": (n_out, rank),
        "magnitude": (n_out,),
        "embedding A": (rank, n_out),
        "embedding B": (n_in, rank),
    } | ({"rows": (len(rows), n_in)} if rows is not None else {})
