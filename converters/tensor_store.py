"""Tensors of a checkpoint on disk: shapes first, data one tensor at a time, never a whole shard in memory.

A shard is reopened for every tensor: a mapping that stays open keeps each page it ever touched resident.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from edge_llava.converters.tensor_names import own_name
from edge_llava.errors import CheckpointError, list_faults

_BIN_SHARD = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_SAFETENSORS_SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # by safetensors' names
# What torch's readers raise on damaged files.
_DAMAGE = (
    OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip
_TORCH_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor that is part of the model.

    Attributes:
        source_name: Its name in the shard.
        shard: File that holds it.
        shape: As in torch.
        n_bytes: Size on disk.
    """

    source_name: str
    shard: Path
    shape: tuple[int, ...]
    n_bytes: int


class TensorSource(Protocol):
    """Tensors by our own names (see `tensor_names`): of files, or computed from those of several."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """What there is."""
        ...

    def load(self, name: str) -> torch.Tensor:
        """One tensor in memory of its own."""
        ...


class TensorStore:
    """The tensors of files on disk.

    Attributes:
        infos: What the files hold of the model.
    """

    def __init__(self, files: Sequence[Path], name_of: Callable[[str], str | None]) -> None:
        """
        Args:
            files: Shards, safetensors or pickles.
            name_of: Our name of a tensor, None for one that is not part of the model.

        Raises:
            CheckpointError: If a file is missing or damaged, or a tensor occurs twice.
        """
        self.infos: Mapping[str, TensorInfo] = _read_infos(files, name_of)

    @classmethod
    def open(cls, directory: Path, layout: str) -> TensorStore:
        """The tensors of a checkpoint or tower directory of layout "hf", "original" or "clip".

        Raises:
            CheckpointError: If there are no weights, a shard is missing or damaged, or a tensor occurs twice.
        """
        return cls(find_shards(directory), partial(own_name, layout=layout))

    def load(self, name: str) -> torch.Tensor:
        """One tensor in memory of its own, with the dtype of the file.

        Raises:
            CheckpointError: If the shard was damaged or removed since it was opened.
        """
        info = self.infos[name]
        with _reading(info.shard):
            if info.shard.suffix == ".safetensors":
                with safe_open(info.shard, framework="pt") as file:
                    tensor: torch.Tensor = file.get_tensor(info.source_name)
                    return tensor.clone()
            return _load_bin(info.shard)[info.source_name].clone()


def _read_infos(files: Sequence[Path], name_of: Callable[[str], str | None]) -> dict[str, TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    faults = []
    for shard in files:
        for source_name, shape, dtype in _read_shard_header(shard):
            name = name_of(source_name)
            if name is None:
                continue
            if dtype not in _DTYPE_BYTES:
                raise CheckpointError(
                    f"{shard}: {source_name} is {dtype}; quantized checkpoints cannot be converted. "
                    "Convert the one that it was made from."
                )
            if name in infos:
                faults.append(
                    f"{source_name} in {shard.name} and {infos[name].source_name} in {infos[name].shard.name}"
                )
            infos[name] = TensorInfo(source_name, shard, shape, torch.Size(shape).numel() * _DTYPE_BYTES[dtype])
    if faults:
        raise CheckpointError(list_faults(f"{files[0].parent} holds the same tensor more than once:", faults))
    return infos


def find_shards(directory: Path) -> list[Path]:
    """Weight files by the index, else by name; safetensors preferred where both kinds exist.

    Raises:
        CheckpointError: If there are none, or some are missing.
    """
    for kind, index_name, pattern in (
        ("safetensors", "model.safetensors.index.json", _SAFETENSORS_SHARD),
        ("bin", "pytorch_model.bin.index.json", _BIN_SHARD),
    ):
        index = directory / index_name
        if index.is_file():
            return _shards_of_index(index)
        found = sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name) and path.is_file())
        if found:
            return _complete_series(found, kind)
    raise CheckpointError(f"{directory} has no weights (model.safetensors, pytorch_model.bin, or their shards).")


def _shards_of_index(index: Path) -> list[Path]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no shard index: it has no weight_map. Download it again.") from error
    if not names:
        raise CheckpointError(f"{index} is no shard index: its weight_map is empty. Download it again.")
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if name not in outside and not (index.parent / name).is_file()]
    if missing or outside:
        faults = [f"{name} is missing" for name in missing] + [f"{name} leaves the directory" for name in outside]
        raise CheckpointError(list_faults(f"{index.parent} is incomplete:", faults, "Download the files again."))
    return [index.parent / name for name in names]


def _complete_series(shards: list[Path], kind: str) -> list[Path]:
    """Shards without an index must at least be the whole series that their names promise."""
    counts = {match.group(1) for path in shards if (match := re.search(r"-of-(\d+)\.", path.name))}
    if len(counts) > 1 or (counts and len(shards) != int(next(iter(counts)))):
        names = ", ".join(path.name for path in shards)
        raise CheckpointError(f"{shards[0].parent} has only some {kind} shards ({names}). Download the others.")
    return shards


def _read_shard_header(shard: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of every tensor of a shard."""
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
        warnings.simplefilter("ignore")  # torch warns of old files and then reads or refuses them
        # Files older than torch 1.6 are not zip archives and cannot be mapped.
        data = torch.load(shard, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(shard))
    is_state_dict = isinstance(data, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in data.items()
    )
    if not is_state_dict:
        raise CheckpointError(f"{shard} is no state dict: it must map names to tensors.")
    return data


@contextmanager
def _reading(shard: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(f"{shard} is damaged or cut short ({error}). Download it again.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{shard} holds more than weights, or is damaged; it is not opened. Use safetensors."
        ) from error
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), "it ends too early")
        raise CheckpointError(f"{shard} cannot be read: {reason}. Download it again.") from error
