"""Writes a GGUF file tensor by tensor: the header first, then one encoded tensor after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as GgmlType
from gguf import GGUFWriter
from numpy.typing import NDArray

from edge_llava.converters.quant_types import encoded_bytes
from edge_llava.converters.quantize import Encoder
from edge_llava.device.memory import trim_heap
from edge_llava.home.progress import ProgressCallback, ProgressEvent


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of a file to be written.

    Attributes:
        name: In GGUF.
        shape: As in torch.
        type: How it is encoded.
        importance: float32 (K,), how much an error in each column of a matrix counts; None: all the same.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    importance: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


def write_tensors(
    writer: GGUFWriter,
    path: Path,
    plan: list[PlannedTensor],
    values: Iterable[torch.Tensor],
    encoder: Encoder,
    stage: str,
    progress: ProgressCallback,
) -> None:
    """Writes header, metadata and tensors, and closes the file.

    Args:
        writer: Contains the metadata; not yet bound to a file.
        path: Target.
        plan: Every tensor, in file order.
        values: The tensors' values in the same order, of any float dtype; consumed one at a time.
        encoder: Encodes them.
        stage: Name for progress events.
        progress: Receives the number of encoded bytes.
    """
    for tensor in plan:
        n_bytes = encoded_bytes(tensor.type, tensor.shape)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, raw_dtype=tensor.type)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total, done = sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan), 0
        progress(ProgressEvent(stage, 0, total))
        for tensor, value in zip(plan, values, strict=True):
            rows = value.to(torch.float32).numpy()
            encoded = encoder.encode(tensor.name, np.ascontiguousarray(rows), tensor.type, tensor.importance)
            writer.write_tensor_data(encoded)
            done += encoded.nbytes
            progress(ProgressEvent(stage, done, total))
            trim_heap()
    finally:
        writer.close()
