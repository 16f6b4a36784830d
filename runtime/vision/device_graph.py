"""Matrix products on one of llama.cpp's devices: weights are copied there once, inputs and results travel.

Source: ggml-backend.h and ggml-alloc.h of the llama.cpp that llama-cpp-python 0.3.36 ships.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.ggml.devices import choose_devices, list_devices
from edge_llava.ggml.library import bind, may_see_gpus
from edge_llava.ggml.types import GgmlType
from edge_llava.runtime.lifetime.native import freed_with
from edge_llava.runtime.options import DecoderOptions
from edge_llava.runtime.vision.ggml_graph import new_context

_POINTER, _SIZE, _INT64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_MAX_TENSORS = 64


def projector_device(options: DecoderOptions) -> str | None:
    """The first of the devices that the language model's blocks are put on, which computes the projector, too.

    None: the CPU. Not one of another computer: an image would travel there and back.

    Raises:
        BackendError: If llama.cpp has no device that the options name.
    """
    if not options.may_offload or not may_see_gpus():
        return None
    used = choose_devices(list_devices(), options.devices, options.n_gpu_layers)
    return next((device.name for device in used if device.backend != "RPC"), None)


class DeviceWeights:
    """Tensors on a device, and the graphs that use them. For one thread."""

    def __init__(self, device: str, tensors: Mapping[str, int]) -> None:
        """
        Args:
            device: As llama.cpp calls it.
            tensors: Addresses of tensors in main memory, which are copied.

        Raises:
            BackendError: If the device cannot be opened, or has too little memory.
        """
        by_name = bind("ggml_backend_dev_by_name", _POINTER, [ctypes.c_char_p])
        init = bind("ggml_backend_dev_init", _POINTER, [_POINTER, ctypes.c_char_p])
        found = by_name(device.encode())
        self._backend = init(found, None) if found else None
        if not self._backend:
            raise BackendError(f"llama.cpp cannot open {device} for the projector.")
        self._context, self._room = new_context(_MAX_TENSORS)
        copy = bind("ggml_dup_tensor", _POINTER, [_POINTER, _POINTER])
        self._copies = {name: copy(self._context, tensor) for name, tensor in tensors.items()}
        allocate = bind("ggml_backend_alloc_ctx_tensors", _POINTER, [_POINTER, _POINTER])
        buffer = allocate(self._context, self._backend)
        self.close = freed_with(self, _free, self._backend, self._context, buffer)
        if not buffer:
            raise BackendError(f"{device} has too little memory for the projector.")
        put = bind("ggml_backend_tensor_set", None, [_POINTER, _POINTER, _SIZE, _SIZE])
        data, size = bind("ggml_get_data", _POINTER, [_POINTER]), bind("ggml_nbytes", _SIZE, [_POINTER])
        for name, tensor in tensors.items():
            put(self._copies[name], data(tensor), 0, size(tensor))
        self._device = device

    def compute(
        self, values: NDArray[np.float32], build: Callable[[DeviceGraph, int], int], n_columns: int
    ) -> NDArray[np.float32]:
        """What `build` makes of the input `values` (rows, columns): float32 (rows, n_columns).

        Raises:
            BackendError: If the device does not know an operation, has too little memory, or fails.
        """
        values = np.ascontiguousarray(values, np.float32)
        context, room = new_context(_MAX_TENSORS)
        allocator = None
        try:
            new = bind("ggml_new_tensor_2d", _POINTER, [_POINTER, ctypes.c_int, _INT64, _INT64])
            given = new(context, GgmlType.F32, values.shape[1], values.shape[0])
            bind("ggml_set_input", None, [_POINTER])(given)
            result = build(DeviceGraph(context, self._copies), given)
            bind("ggml_set_output", None, [_POINTER])(result)
            graph = bind("ggml_new_graph", _POINTER, [_POINTER])(context)
            bind("ggml_build_forward_expand", None, [_POINTER, _POINTER])(graph, result)
            self._check_operations(graph)
            kind = bind("ggml_backend_get_default_buffer_type", _POINTER, [_POINTER])(self._backend)
            allocator = bind("ggml_gallocr_new", _POINTER, [_POINTER])(kind)
            if not bind("ggml_gallocr_alloc_graph", ctypes.c_bool, [_POINTER, _POINTER])(allocator, graph):
                raise BackendError(f"{self._device} has too little memory for the projector.")
            put = bind("ggml_backend_tensor_set", None, [_POINTER, _POINTER, _SIZE, _SIZE])
            put(given, values.ctypes.data, 0, values.nbytes)
            run = bind("ggml_backend_graph_compute", ctypes.c_int, [_POINTER, _POINTER])
            if (status := run(self._backend, graph)) != 0:
                raise BackendError(f"{self._device} could not compute the projector (status {status}).")
            rows = np.empty((len(values), n_columns), np.float32)
            get = bind("ggml_backend_tensor_get", None, [_POINTER, _POINTER, _SIZE, _SIZE])
            get(result, rows.ctypes.data, 0, rows.nbytes)
            return rows
        finally:
            if allocator:
                bind("ggml_gallocr_free", None, [_POINTER])(allocator)
            bind("ggml_free", None, [_POINTER])(context)
            del room  # in which the context was

    def _check_operations(self, graph: int) -> None:
        count = bind("ggml_graph_n_nodes", ctypes.c_int, [_POINTER])(graph)
        node = bind("ggml_graph_node", _POINTER, [_POINTER, ctypes.c_int])
        supports = bind("ggml_backend_supports_op", ctypes.c_bool, [_POINTER, _POINTER])
        if not all(supports(self._backend, node(graph, index)) for index in range(count)):
            raise BackendError(f"{self._device} does not know an operation of the projector.")


class DeviceGraph:
    """The operations of a graph on a device."""

    def __init__(self, context: Any, weights: Mapping[str, int]) -> None:
        self._context, self._weights = context, weights

    def linear(self, rows: int, layer: str) -> int:
        """`rows` (n, in) times the transpose of the layer's weight (out, in), plus its bias: (n, out)."""
        product = self._apply("ggml_mul_mat", self._weights[f"{layer}.weight"], rows)
        return self._apply("ggml_add", product, self._weights[f"{layer}.bias"])

    def gelu_erf(self, rows: int) -> int:
        """The exact GELU, x * Phi(x)."""
        return self._apply("ggml_gelu_erf", rows)

    def _apply(self, function: str, *tensors: int) -> int:
        result: int = bind(function, _POINTER, [_POINTER] * (1 + len(tensors)))(self._context, *tensors)
        return result


def _free(backend: Any, context: Any, buffer: Any) -> None:
    if buffer:
        bind("ggml_backend_buffer_free", None, [_POINTER])(buffer)
    bind("ggml_free", None, [_POINTER])(context)
    bind("ggml_backend_free", None, [_POINTER])(backend)
