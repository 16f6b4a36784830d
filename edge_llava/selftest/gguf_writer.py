"""A GGUF file of float32 tensors, from numpy alone. The converters write all others, with the `gguf` package.

Source: the GGUF version 3 container as written by llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GgufValue = int | float | bool | str | Sequence[str] | Sequence[int] | Sequence[float]

_ALIGNMENT = 32
_F32 = 0  # ggml's type of a tensor
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def write_gguf(path: Path, metadata: Mapping[str, GgufValue], tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes a file.

    Args:
        path: Where.
        metadata: Values by key; whole numbers become uint32, those in lists int32, other numbers float32.
        tensors: By name, axes in numpy's order.
    """
    header, data = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))], []
    for key, value in metadata.items():
        header.append(_string(key) + _value(value))
    offset = 0
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        header.append(_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        header.append(struct.pack("<IQ", _F32, offset))
        data.append(_padded(np.ascontiguousarray(tensor, np.float32).tobytes()))
        offset += len(data[-1])
    path.write_bytes(_padded(b"".join(header)) + b"".join(data))


def _value(value: GgufValue) -> bytes:
    """A value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    items, type_id = b"", _INT32
    for item in value:
        if isinstance(item, str):
            items, type_id = items + _string(item), _STRING
        elif isinstance(item, float):
            items, type_id = items + struct.pack("<f", item), _FLOAT32
        else:
            items += struct.pack("<i", item)
    return struct.pack("<IIQ", _ARRAY, type_id, len(value)) + items


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
