"""Refuses a corrupt GGUF file before a C library can crash on it.

Reads the header only: magic, version, metadata, tensor shapes, types and offsets, against the file's size. The header
itself is bounded, because a sparse file may claim any length and take no space.
Source: the GGUF version 3 container as written by llama.cpp.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_llava.errors import BundleError
from edge_llava.ggml.limits import MAX_TENSOR_AXES, MAX_TENSOR_NAME_BYTES, TENSOR_ALIGNMENT
from edge_llava.ggml.types import BLOCK_SIZES, GgufType
from edge_llava.home.border import blaming_file
from edge_llava.home.regular_file import open_regular

_SCALARS: Mapping[int, str] = {
    GgufType.UINT8: "B", GgufType.INT8: "b", GgufType.UINT16: "H", GgufType.INT16: "h", GgufType.UINT32: "I",
    GgufType.INT32: "i", GgufType.FLOAT32: "f", GgufType.BOOL: "?", GgufType.UINT64: "Q", GgufType.INT64: "q",
    GgufType.FLOAT64: "d",
}  # fmt: skip
_MAX_HEADER_BYTES = 64 << 20  # a vocabulary of 256,000 tokens takes about 7 MB
_MAX_ITEMS = 1 << 20  # of all arrays together
_MAX_STRING_BYTES, _MAX_TENSORS, _MAX_KEYS, _MAX_KEY_BYTES, _MAX_ALIGNMENT = 1 << 24, 1 << 14, 1 << 10, 128, 1 << 16

MetadataValue = int | float | bool | str


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the header: shape fastest axis first, ggml type id, offset in the data section in bytes."""

    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def n_bytes(self) -> int:
        """Size of the data."""
        block, block_bytes = BLOCK_SIZES[self.type_id]
        count = 1
        for side in self.shape:
            count *= side
        return count // block * block_bytes


@dataclass(frozen=True)
class GgufArray:
    """One array of the metadata: type id of its items, their number, and the items: strings, or the others' bytes."""

    type_id: int
    length: int
    strings: tuple[bytes, ...] = ()
    data: bytes = b""


@dataclass(frozen=True)
class GgufHeader:
    """Metadata (single values and arrays, by key) and tensors (by name) of a checked file."""

    metadata: Mapping[str, MetadataValue]
    arrays: Mapping[str, GgufArray]
    tensors: Mapping[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Reads and checks the header of a GGUF file.

    Raises:
        BundleError: If the file cannot be a GGUF that llama.cpp reads safely; says what is wrong.
    """
    advice = "Convert the checkpoint again."
    with blaming_file(BundleError, path, advice), open_regular(path) as file:
        try:
            return _Reader(file, os.fstat(file.fileno()).st_size).header()
        except _Corrupt as error:
            raise BundleError(f"{path} is not a usable GGUF file: {error}. {advice}") from error


class _Corrupt(Exception):
    """Raised inside this file only."""


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._n_bytes = self._n_items = 0  # read so far

    def header(self) -> GgufHeader:
        if self._bytes(4) != b"GGUF":
            raise _Corrupt("it does not begin with 'GGUF'")
        version = self._scalar("I")
        if version != 3:
            raise _Corrupt(f"container version {version}, expected 3")
        n_tensors, n_metadata = self._count("tensors", _MAX_TENSORS), self._count("metadata entries", _MAX_KEYS)
        metadata: dict[str, MetadataValue] = {}
        arrays: dict[str, GgufArray] = {}
        for _ in range(n_metadata):
            key = self._name(_MAX_KEY_BYTES)
            if key in metadata or key in arrays:
                raise _Corrupt(f"metadata key {key!r} occurs twice")
            type_id = self._scalar("I")
            if type_id == GgufType.ARRAY:
                arrays[key] = self._array(key)
            else:
                metadata[key] = self._value(type_id, key)
        tensors: dict[str, GgufTensor] = {}
        for _ in range(n_tensors):
            name = self._name(MAX_TENSOR_NAME_BYTES)
            if name in tensors:
                raise _Corrupt(f"tensor {name!r} occurs twice")
            tensors[name] = self._tensor(name)
        self._check_extents(tensors, metadata)
        return GgufHeader(metadata, arrays, tensors)

    def _bytes(self, n: int) -> bytes:
        self._n_bytes += n
        if self._n_bytes > _MAX_HEADER_BYTES:
            raise _Corrupt(f"its header is longer than {_MAX_HEADER_BYTES:,} bytes")
        data = self._file.read(n) if n <= self._size else b""
        if len(data) != n:
            raise _Corrupt("it ends inside its header")
        return data

    def _scalar(self, code: str) -> int:
        value: int = struct.unpack("<" + code, self._bytes(struct.calcsize("<" + code)))[0]
        return value

    def _count(self, what: str, most: int) -> int:
        value = self._scalar("Q")
        if value > most:
            raise _Corrupt(f"it claims {value} {what}")
        return value

    def _string(self) -> bytes:
        length = self._scalar("Q")
        if length > _MAX_STRING_BYTES:
            raise _Corrupt(f"it claims a string of {length} bytes")
        return self._bytes(length)

    def _text(self) -> str:
        try:
            return self._string().decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Corrupt("a text in its header is not UTF-8") from error

    def _name(self, max_bytes: int) -> str:
        name = self._text()
        if not 0 < len(name.encode()) <= max_bytes or "\0" in name:  # C reads up to the zero: two names could be one
            raise _Corrupt(f"its header holds the name {name[:max_bytes]!r}")
        return name

    def _value(self, type_id: int, key: str) -> MetadataValue:
        if type_id == GgufType.STRING:
            return self._text()
        if type_id not in _SCALARS:
            raise _Corrupt(f"metadata key {key!r} has the unknown type {type_id}")
        return self._scalar(_SCALARS[type_id])

    def _array(self, key: str) -> GgufArray:
        type_id = self._scalar("I")
        length = self._count(f"items in {key!r}", _MAX_ITEMS - self._n_items)
        self._n_items += length
        if type_id == GgufType.STRING:
            return GgufArray(type_id, length, tuple(self._string() for _ in range(length)))
        if type_id not in _SCALARS:
            raise _Corrupt(f"metadata key {key!r} is an array of the unknown type {type_id}")
        return GgufArray(type_id, length, data=self._bytes(length * struct.calcsize("<" + _SCALARS[type_id])))

    def _tensor(self, name: str) -> GgufTensor:
        n_dims = self._scalar("I")
        if not 1 <= n_dims <= MAX_TENSOR_AXES:
            raise _Corrupt(f"tensor {name!r} claims {n_dims} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(n_dims))
        type_id, offset = self._scalar("I"), self._scalar("Q")
        if type_id not in BLOCK_SIZES:
            raise _Corrupt(f"tensor {name!r} has the unsupported ggml type {type_id}")
        if any(side < 1 or side > 1 << 40 for side in shape):
            raise _Corrupt(f"tensor {name!r} has the impossible shape {shape}")
        if shape[0] % BLOCK_SIZES[type_id][0]:
            raise _Corrupt(f"tensor {name!r}: a row of {shape[0]} does not divide into blocks of its type")
        return GgufTensor(shape, type_id, offset)

    def _check_extents(self, tensors: Mapping[str, GgufTensor], metadata: Mapping[str, MetadataValue]) -> None:
        alignment = metadata.get("general.alignment", TENSOR_ALIGNMENT)
        is_size = isinstance(alignment, int) and TENSOR_ALIGNMENT <= alignment <= _MAX_ALIGNMENT
        if not isinstance(alignment, int) or not is_size or alignment & (alignment - 1):
            raise _Corrupt(f"its alignment is {alignment}")
        data_start = -(-self._file.tell() // alignment) * alignment
        expected = 0
        for name, tensor in tensors.items():
            if tensor.offset != expected:
                raise _Corrupt(f"tensor {name!r} lies at the offset {tensor.offset}, expected {expected}")
            end = data_start + tensor.offset + tensor.n_bytes
            if end > self._size:
                raise _Corrupt(f"tensor {name!r} ends at byte {end} and the file has {self._size}: it is truncated")
            expected = -(-(tensor.offset + tensor.n_bytes) // alignment) * alignment  # one follows the other, aligned
