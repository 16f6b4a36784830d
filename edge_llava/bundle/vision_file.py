"""Checks that vision.onnx keeps its weights in itself, or in the one file that the manifest lists.

An ONNX model may name any file as the place of a weight, and ONNX Runtime reads it. Only the lengths of the model's
messages and the names of those places are looked at here; the weights are passed over.

Source: onnx.proto (message and field numbers) and the wire format of Protocol Buffers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BundleError, list_faults
from edge_llava.home.border import blaming_file
from edge_llava.home.regular_file import open_regular

# message -> field number -> message of the field, for all through which a tensor can be reached.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
_KEY, _VALUE = 1, 2  # of an Entry
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups are not used by ONNX
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES, _MAX_DEPTH, _MAX_FIELDS = 10, 64, 2_000_000  # towers have some 20,000 fields


def check_vision_file(bundle: Bundle) -> None:
    """Looks for the places of weights outside of vision.onnx.

    Raises:
        BundleError: If one is not the manifest's `files.vision_data`, or the file is not an ONNX model.
    """
    path, files = bundle.file("vision"), bundle.manifest.files
    folder = PurePosixPath(files["vision"].path).parent
    listed = {PurePosixPath(files["vision_data"].path)} if "vision_data" in files else set[PurePosixPath]()
    found = external_locations(path)
    faults = [
        f"weights in {location[:200]!r}" for location in sorted(found) if folder / PurePosixPath(location) not in listed
    ]
    if faults:
        raise BundleError(
            list_faults(f"{path} names files that the manifest does not list:", faults, "Convert the checkpoint again.")
        )


def external_locations(path: Path) -> set[str]:
    """The files that an ONNX model names as places of weights.

    Raises:
        BundleError: If it cannot be read as an ONNX model.
    """
    with blaming_file(BundleError, path, "Convert the checkpoint again."), open_regular(path) as file:
        if not file.seek(0, 2):
            return set()  # an empty file cannot be mapped; ONNX Runtime refuses it
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            reader.read("Model", 0, len(data), 0)
            return reader.locations


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._n_fields = data, 0
        self.locations: set[str] = set()

    def read(self, message: str, start: int, end: int, depth: int) -> None:
        """Walks through a message; adds to `locations`."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"its graphs are nested more than {_MAX_DEPTH} deep")
        keys, values = list[bytes](), list[bytes]()
        for number, first, last in self._fields(start, end):
            inner = _FIELDS[message].get(number)
            if inner is not None:
                self.read(inner, first, last, depth + 1)
            elif message == "Entry":
                (keys if number == _KEY else values).append(self._data[first:last])
        if b"location" in keys:  # of a field that occurs twice, readers differ in which one counts
            self.locations |= {value.decode("utf-8", "backslashreplace") for value in values} or {""}

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, start and end of each field of bytes."""
        at = start
        while at < end:
            self._n_fields += 1
            if self._n_fields > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS} fields")
            tag, at = self._varint(at, end)
            kind = tag & 7
            if kind == _VARINT:
                _, at = self._varint(at, end)
                continue
            if kind == _BYTES:
                n_bytes, at = self._varint(at, end)
            elif kind in _FIXED_SIZES:
                n_bytes = _FIXED_SIZES[kind]
            else:
                raise ValueError(f"it has a field of the unknown kind {kind}")
            if n_bytes > end - at:
                raise ValueError("it is truncated")
            if kind == _BYTES:
                yield tag >> 3, at, at + n_bytes
            at += n_bytes

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number, and where it ends."""
        value = 0
        for i in range(_MAX_VARINT_BYTES):
            if at + i >= end:
                raise ValueError("it is truncated")
            byte = self._data[at + i]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value & (1 << 64) - 1, at + i + 1
        raise ValueError("it has a number of more than 64 bits")
