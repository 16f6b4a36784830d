"""The few ggml functions that the projector needs, by ctypes. Shapes are numpy's: ggml lists the fastest axis first.

Source: ggml.h, gguf.h and ggml-cpu.h of the llama.cpp that llama-cpp-python 0.3.36 ships.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.ggml.library import bind
from edge_llava.ggml.types import GgmlType
from edge_llava.runtime.lifetime.native import freed_with
from edge_llava.runtime.lifetime.work_thread import WorkThread

_POINTER, _SIZE, _INT64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64


class _GgmlInitParams(ctypes.Structure):
    _fields_ = (("mem_size", _SIZE), ("mem_buffer", _POINTER), ("no_alloc", ctypes.c_bool))


class _GgufInitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(_POINTER)))


class _Plan(ctypes.Structure):
    """ggml_cplan: how a graph will be run, and the work memory that this takes."""

    _fields_ = (
        ("work_size", _SIZE),
        ("work_data", _POINTER),
        ("n_threads", ctypes.c_int),
        ("threadpool", _POINTER),
        ("abort_callback", _POINTER),
        ("abort_callback_data", _POINTER),
        ("use_ref", ctypes.c_bool),
    )


class TensorFile:
    """The tensors of a GGUF file in memory. Check the file with `edge_llava.ggml.gguf_header` first."""

    def __init__(self, path: Path) -> None:
        _make_room(path.stat().st_size if path.is_file() else 0)  # freed at once: ggml takes its own
        self._context = _POINTER()
        init = bind("gguf_init_from_file", _POINTER, [ctypes.c_char_p, _GgufInitParams])
        gguf = init(os.fsencode(path), _GgufInitParams(False, ctypes.pointer(self._context)))
        if not gguf:
            raise BackendError(f"ggml cannot load {path}: out of memory, or the file was damaged while it was read.")
        bind("gguf_free", None, [_POINTER])(gguf)
        self._free = freed_with(self, bind("ggml_free", None, [_POINTER]), self._context)
        self._get_tensor = bind("ggml_get_tensor", _POINTER, [_POINTER, ctypes.c_char_p])

    def tensor(self, name: str) -> int:
        """Address of a tensor, to be used in a Graph."""
        address: int | None = self._get_tensor(self._context, name.encode())
        if not address:
            raise BackendError(f"the projector file has no tensor {name!r}. Convert the checkpoint again.")
        return address

    def close(self) -> None:
        """Frees the tensors; safe to call twice."""
        self._free()
        self._context = _POINTER()


class Graph:
    """A compute graph on the CPU that owns its memory. Build it, compute one result, close it."""

    def __init__(self, n_bytes: int) -> None:
        """Takes `n_bytes` for the data of all tensors: an upper bound, as ggml aborts the process when it is too small.

        The work memory of a run comes on top, see `compute`.
        """
        overhead = bind("ggml_graph_overhead", _SIZE, [])() + 64 * bind("ggml_tensor_overhead", _SIZE, [])()
        n_all = n_bytes + overhead + (1 << 20)
        self._room = _make_room(n_all)  # must live as long as the context
        params = _GgmlInitParams(n_all, self._room.ctypes.data, False)
        self._context = bind("ggml_init", _POINTER, [_GgmlInitParams])(params)
        if not self._context:
            raise BackendError(f"ggml cannot allocate {n_bytes} bytes for the projector. Close other programs.")
        self.close = freed_with(self, bind("ggml_free", None, [_POINTER]), self._context)

    def input(self, values: NDArray[np.float32]) -> int:
        """A tensor holding a copy of `values`, float32 (rows, columns)."""
        rows, columns = values.shape
        new = bind("ggml_new_tensor_2d", _POINTER, [_POINTER, ctypes.c_int, _INT64, _INT64])
        tensor: int = new(self._context, GgmlType.F32, columns, rows)
        values_of(tensor, rows, columns)[...] = values
        return tensor

    def linear(self, rows: int, weight: int, bias: int) -> int:
        """`rows` (n, in) times the transpose of `weight` (out, in), plus `bias` (out,): (n, out)."""
        return self._apply("ggml_add_inplace", self._apply("ggml_mul_mat", weight, rows), bias)

    def gelu_erf(self, rows: int) -> int:
        """The exact GELU, x * Phi(x), in place."""
        return self._apply("ggml_gelu_erf_inplace", rows)

    def compute(self, result: int, shape: tuple[int, int], n_threads: int) -> NDArray[np.float32]:
        """Runs the graph that ends in `result` and returns a copy of its float32 data."""
        graph = bind("ggml_new_graph", _POINTER, [_POINTER])(self._context)
        bind("ggml_build_forward_expand", None, [_POINTER, _POINTER])(graph, result)
        # ggml_graph_compute_with_ctx would take the work memory, which grows with the threads, from the context
        plan = bind("ggml_graph_plan", _Plan, [_POINTER, ctypes.c_int, _POINTER])(graph, n_threads, None)
        work = (ctypes.c_uint8 * plan.work_size)()
        plan.work_data = ctypes.addressof(work)
        compute = bind("ggml_graph_compute", ctypes.c_int, [_POINTER, ctypes.POINTER(_Plan)])
        # OpenMP keeps a team for every thread that once computed. As soon as all teams together outnumber the cores,
        # each waits asleep between operations: decode on another thread loses a fifth. A team ends with its thread.
        with closing(WorkThread("edge-llava-ggml")) as once:
            status = once.submit(compute, graph, ctypes.byref(plan)).result()
        if status != 0:
            raise BackendError(f"ggml could not compute the projector (status {status}). Close other programs.")
        return values_of(result, *shape).copy()

    def _apply(self, function: str, *tensors: int) -> int:
        result: int = bind(function, _POINTER, [_POINTER] * (1 + len(tensors)))(self._context, *tensors)
        return result


def new_context(n_tensors: int) -> tuple[Any, NDArray[np.uint8]]:
    """A context for so many tensors whose data is elsewhere, and the memory that it lies in, which must outlive it.

    Raises:
        BackendError: If there is no memory.
    """
    n_bytes = bind("ggml_graph_overhead", _SIZE, [])() + n_tensors * bind("ggml_tensor_overhead", _SIZE, [])()
    room = _make_room(n_bytes)
    context = bind("ggml_init", _POINTER, [_GgmlInitParams])(_GgmlInitParams(n_bytes, room.ctypes.data, True))
    if not context:
        raise BackendError("ggml cannot make a context for the projector. Close other programs.")
    return context, room


def _make_room(n_bytes: int) -> NDArray[np.uint8]:
    """Memory that is not touched yet. ggml itself would end the process where there is none."""
    try:
        return np.empty(n_bytes, np.uint8)
    except MemoryError as error:
        raise BackendError(f"the projector needs {n_bytes} bytes of memory. Close other programs.") from error


def values_of(tensor: int, rows: int, columns: int) -> NDArray[np.float32]:
    """The numbers of a float32 tensor (rows, columns), not a copy."""
    address = bind("ggml_get_data_f32", ctypes.POINTER(ctypes.c_float), [_POINTER])(tensor)
    view: NDArray[np.float32] = np.ctypeslib.as_array(address, shape=(rows, columns))
    return view
