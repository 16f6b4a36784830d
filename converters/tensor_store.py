"""Reads a checkpoint's tensors from disk: shapes first, then one tensor at a time, never a whole shard in memory.

A shard is reopened for every tensor, because an open mapping keeps every page that was read resident.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from edge_llava.converters.json_file import plain, shorten, shown
from edge_llava.converters.tensor_names import is_of_adapter, is_unused, own_name, unwrap_name
from edge_llava.converters.weight_files import find_shards
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.home.border import blaming_file

_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # by safetensors' names
_TORCH_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "module")  # where trainers put the weights in a .bin
_UNMERGED = (
    "It contains an adapter that was never merged. Merge it (peft's merge_and_unload), or save the adapter alone and "
    "convert that with --base."
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor that is part of the model.

    Attributes:
        source_name: Its name in the shard.
        shard: File that contains it.
        shape: As in torch.
        n_bytes: Size on disk.
    """

    source_name: str
    shard: Path
    shape: tuple[int, ...]
    n_bytes: int


class TensorSource(Protocol):
    """Tensors by our own names (see `tensor_names`), read from files or computed from several."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor there is, by our name."""
        ...

    def load(self, name: str) -> torch.Tensor:
        """Loads one tensor into its own memory."""
        ...


class TensorStore:
    """The tensors of files on disk.

    Attributes:
        infos: The model's tensors in the files, by our name.
        foreign: Names in the files that belong to no part of the model and are not known to be unused.
        files: The files.
    """

    def __init__(self, files: Sequence[Path], name_of: Callable[[str], str | None]) -> None:
        """
        Args:
            files: Shards, safetensors or pickles.
            name_of: Returns our name of a tensor; None for one that no part of the model has.

        Raises:
            CheckpointError: If a file is missing or damaged, or a tensor occurs twice.
        """
        self.files = tuple(files)
        self.infos: Mapping[str, TensorInfo]
        self.infos, self.foreign = _read_infos(files, name_of)

    @classmethod
    def open(cls, directory: Path, layout: str) -> TensorStore:
        """Opens the tensors of a checkpoint or tower directory of layout "hf", "original" or "clip".

        Raises:
            CheckpointError: If there are no weights, a tensor is not part of the model, or as in the constructor.
        """
        return cls.read(find_shards(directory), lambda source_name: own_name(unwrap_name(source_name), layout))

    @classmethod
    def read(cls, files: Sequence[Path], name_of: Callable[[str], str | None]) -> TensorStore:
        """Opens files in which every tensor must have a use (but see `tensor_names.is_unused`).

        Raises:
            CheckpointError: If a tensor belongs to no part of the model, or as in the constructor.
        """
        store = cls(files, name_of)
        refuse_unread(files[0].parent, store.foreign, "belong to no part of a LLaVA that is known here")
        return store

    def load(self, name: str) -> torch.Tensor:
        """Loads one tensor into its own memory, with the dtype of the file.

        Raises:
            CheckpointError: If the shard was damaged or removed after it was opened.
        """
        info = self.infos[name]
        with _reading(info.shard):
            if info.shard.suffix == ".safetensors":
                with safe_open(info.shard, framework="pt") as file:
                    tensor: torch.Tensor = file.get_tensor(info.source_name)
                    return tensor.clone()
            return _load_bin(info.shard)[info.source_name].clone()


def refuse_unread(directory: Path, names: Sequence[str], why: str) -> None:
    """
    Raises:
        CheckpointError: If there are tensors that the bundle would lose.
    """
    if names:
        advice = _UNMERGED if any(map(is_of_adapter, names)) else ""
        headline = f"{directory} contains tensors that {why}; a bundle would lose them:"
        raise CheckpointError(list_faults(headline, shorten([plain(name) for name in names]), advice))


def _read_infos(
    files: Sequence[Path], name_of: Callable[[str], str | None]
) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    infos: dict[str, TensorInfo] = {}
    foreign, doubled = list[str](), list[str]()
    for shard in files:
        for source_name, shape, dtype in _read_shard_header(shard):
            if is_unused(unwrap_name(source_name)):
                continue
            name = name_of(source_name)
            if name is None:
                foreign.append(source_name)
                continue
            if dtype not in _DTYPE_BYTES:
                raise CheckpointError(
                    f"{shard}: {plain(source_name)} is {dtype}; quantized checkpoints cannot be converted. "
                    "Convert the original checkpoint."
                )
            if name in infos:
                other = infos[name]
                doubled.append(
                    f"{plain(source_name)} in {shard.name} and {plain(other.source_name)} in {other.shard.name}"
                )
            infos[name] = TensorInfo(source_name, shard, shape, torch.Size(shape).numel() * _DTYPE_BYTES[dtype])
    if doubled:
        headline = f"{files[0].parent} contains the same tensor more than once:"
        raise CheckpointError(list_faults(headline, shorten(doubled)))
    return infos, tuple(foreign)


def _read_shard_header(shard: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Returns name, shape and dtype of every tensor of a shard."""
    with _reading(shard):
        if shard.suffix == ".safetensors":
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    view = file.get_slice(name)
                    yield name, tuple(view.get_shape()), view.get_dtype()
        else:
            for name, tensor in _load_bin(shard).items():
                yield name, tuple(tensor.shape), _TORCH_DTYPES.get(tensor.dtype, str(tensor.dtype))


def _load_bin(shard: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about old files, then reads or refuses them
        # Files older than torch 1.6 are not zip archives and cannot be mapped.
        data = torch.load(shard, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(shard))
    tensors = _unnest(data)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"{shard} is not a state dict: it must map names to tensors.")
    faults = [f"the name {shown(name)} is not text" for name in tensors if not isinstance(name, str)]
    faults += [f"{shown(name)} has no data (device meta)" for name, tensor in tensors.items() if tensor.is_meta]
    faults += [f"{shown(name)} is sparse" for name, tensor in tensors.items() if tensor.layout != torch.strided]
    if faults:
        raise CheckpointError(list_faults(f"{shard} is not a state dict:", shorten(faults), "Save the weights again."))
    return tensors


def _unnest(data: Any) -> Any:
    """Returns the state dict inside what a trainer saved, if that contains no other tensors."""
    if not isinstance(data, dict) or any(isinstance(value, torch.Tensor) for value in data.values()):
        return data
    return next((data[key] for key in _NESTED_KEYS if isinstance(data.get(key), dict)), data)


@contextmanager
def _reading(shard: Path) -> Iterator[None]:
    with blaming_file(CheckpointError, shard, "Download it again.", "cannot be read"):
        try:
            yield
        except SafetensorError as error:
            raise CheckpointError(f"{shard} is damaged or cut short ({error}). Download it again.") from error
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{shard} contains more than weights, or is damaged; it is not opened. Use safetensors."
            ) from error
