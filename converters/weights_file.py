"""The file of weights beside an ONNX graph, written one weight after another, so that they are never all in memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

MIN_EXTERNAL_BYTES = 1024  # smaller weights are kept in the graph


class WeightsFile:
    """A new file, open within a `with` block; an older one is replaced."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # a graph that is still open may have mapped it
        self._name, self._file = path.name, path.open("wb")

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, values: NDArray[np.generic]) -> TensorProto:
        """Writes a weight.

        Returns:
            The initializer for a graph in the same directory; it says where the values are.
        """
        if values.nbytes < MIN_EXTERNAL_BYTES:
            return numpy_helper.from_array(values, name)
        weight = numpy_helper.from_array(np.empty(0, values.dtype), name)
        weight.dims[:] = values.shape
        set_external_data(weight, self._name, self._file.tell(), values.nbytes)
        weight.ClearField("raw_data")
        self._file.write(np.ascontiguousarray(values).data)
        return weight
