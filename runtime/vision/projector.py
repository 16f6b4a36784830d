"""The projector: patch features to embedding rows, weights as ggml stores them, computed by ggml."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.manifest import ProjectorSpec
from edge_llava.device.thread_count import ThreadCount
from edge_llava.errors import BackendError, BundleError, list_faults
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.ggml.types import GgmlType
from edge_llava.runtime.vision.device_graph import DeviceGraph, DeviceWeights
from edge_llava.runtime.vision.ggml_graph import Graph, TensorFile, values_of

_log = logging.getLogger("edge_llava.vision")
# ggml acts upon the alignment alone; the converters write the others.
_KEYS = frozenset(
    (
        "general.architecture", "general.type", "general.name", "general.file_type", "general.quantization_version",
        "general.alignment", "edge_llava.projector.kind",
    )
)  # fmt: skip


class Projector:
    """y = W2 gelu(W1 x + b1) + b2 ("mlp2x_gelu") or y = W x + b ("linear"); the GELU is the exact erf form.

    Attributes:
        newline: Row (E,) float32 that ends each row of patches; None where the checkpoint has none.

    Source: LLaVA's mm_projector and transformers' LlavaMultiModalProjector.
    """

    def __init__(
        self,
        path: Path,
        spec: ProjectorSpec,
        threads: ThreadCount,
        *,
        has_newline: bool = False,
        device: str | None = None,
    ) -> None:
        """Opens projector.gguf.

        Args:
            path: The file.
            spec: What the manifest says about it.
            threads: How many compute on the CPU; the number does not change what they compute.
            has_newline: Whether the row that ends each row of patches is in it.
            device: One of llama.cpp's that computes it, as of `projector_device`; where it cannot, the CPU does.
        """
        self.spec = spec
        self._threads = threads
        _check_file(path, spec, has_newline)
        self._file = TensorFile(path)
        self.newline: NDArray[np.float32] | None = None
        if has_newline:
            self.newline = values_of(self._file.tensor("image_newline"), 1, spec.out_features)[0].copy()
        self._on_device: DeviceWeights | None = None
        if device is not None:
            try:
                self._on_device = DeviceWeights(device, self._tensors())
            except BackendError as error:
                _log.warning("%s The CPU computes it.", error)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projects patch features (P, in_features) float32 to embedding rows (P, out_features) float32."""
        if features.ndim != 2 or features.shape[1] != self.spec.in_features:
            # ggml would end the process
            raise BackendError(f"the projector takes (P, {self.spec.in_features}) features, not {features.shape}.")
        if self._on_device is not None:
            try:
                return self._on_device.compute(features, self._build, self.spec.out_features)
            except BackendError as error:
                _log.warning("%s The CPU computes it.", error)
                self._on_device.close()
                self._on_device = None
        n_rows, widest = len(features), max(self.spec.in_features, self.spec.out_features)
        # the input and a product per layer, in float32; one more to be safe
        with closing(Graph(n_bytes=4 * 4 * n_rows * widest)) as graph:
            rows = graph.input(features)
            for index, layer in enumerate(_layers(self.spec)):
                if index:
                    rows = graph.gelu_erf(rows)
                rows = graph.linear(rows, self._file.tensor(f"{layer}.weight"), self._file.tensor(f"{layer}.bias"))
            self._threads.update()
            return graph.compute(rows, (n_rows, self.spec.out_features), self._threads.n)

    def _tensors(self) -> dict[str, int]:
        names = [f"{layer}.{part}" for layer in _layers(self.spec) for part in ("weight", "bias")]
        return {name: self._file.tensor(name) for name in names}

    def _build(self, graph: DeviceGraph, rows: int) -> int:
        for index, layer in enumerate(_layers(self.spec)):
            rows = graph.linear(graph.gelu_erf(rows) if index else rows, layer)
        return rows

    def close(self) -> None:
        """Frees the weights; safe to call twice."""
        if self._on_device is not None:
            self._on_device.close()
        self._file.close()


def _layers(spec: ProjectorSpec) -> tuple[str, ...]:
    return ("mm.0",) if spec.kind == "linear" else ("mm.0", "mm.2")


def _check_file(path: Path, spec: ProjectorSpec, has_newline: bool) -> None:
    header = read_gguf_header(path)
    expected, width = dict[str, tuple[int, ...]](), spec.in_features
    for layer in _layers(spec):
        expected |= {f"{layer}.weight": (width, spec.out_features), f"{layer}.bias": (spec.out_features,)}
        width = spec.out_features
    if has_newline:
        expected["image_newline"] = (spec.out_features,)
    unknown = [key for key in (*header.metadata, *header.arrays) if key not in _KEYS]
    faults = [f"{key!r} is not part of a projector's description" for key in unknown]
    for name, shape in expected.items():
        found = header.tensors.get(name)
        if found is None:
            faults.append(f"{name} is missing")
        elif found.shape != shape:
            faults.append(f"{name} has shape {found.shape}, expected {shape}")
        elif len(shape) == 1 and found.type_id != GgmlType.F32:
            faults.append(f"{name} is not float32")
    if faults:
        raise BundleError(list_faults(f"{path} does not match its manifest:", faults, "Convert the checkpoint again."))
