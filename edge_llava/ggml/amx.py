"""Whether the kernels of llama.cpp for AMX, the matrix unit of newer Xeons, work on this machine.

Where they do not, the first product ends the process: GCC before 12.4 and 13.3 compiles the unit's set-up wrongly (its
bug 114098), and not every kernel or virtual machine lets a process use it. Therefore a process of its own tries it out,
once for each build, processor and kernel, which takes half a second.

    python -m edge_llava.ggml.amx       says "right" if a product is what it should be
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from edge_llava.device.cpu_name import read_cpu_name
from edge_llava.device.tree import Tree
from edge_llava.ggml.library import bind, library_digest
from edge_llava.home.directories import has_home, home_directory
from edge_llava.home.files import write_text

_LIMIT_S = 60
_RIGHT, _WRONG = "right", "wrong"
_P, _SIZE, _INT64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_F32, _Q4_0 = 0, 2  # ggml_type
_CRASHES = {getattr(signal, name, 0) for name in ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGTRAP")} - {0}
_WIDTH = 64  # of all matrices; also the number of rows, more than the kernels for few
_ROOM = 1 << 20  # for a few tensors and a graph, without their numbers


def has_amx() -> bool:
    """Whether llama.cpp was built with these kernels, and so may use them by itself."""
    return bool(bind("ggml_cpu_has_amx_int8", ctypes.c_int, [])())


@functools.cache
def can_use_amx() -> bool:
    """Whether it was, and they work here. The first call on a machine may start a process."""
    if not has_amx():
        return False
    place, key = home_directory() / "amx.json", _build_and_machine()
    known = _read(place)
    if known.get("tried") == key:
        return known.get("works") is True
    said = _try_in_child()
    if said in (_RIGHT, _WRONG):
        _remember(place, {"tried": key, "works": said == _RIGHT})
    return said == _RIGHT


def _build_and_machine() -> str:
    facts = (library_digest(), read_cpu_name(Tree()), platform.release())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _read(place: Path) -> dict[str, object]:
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _remember(place: Path, verdict: dict[str, object]) -> None:
    if not has_home():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps(verdict) + "\n")
    except OSError:
        return  # a read-only home: it is tried again next time


def _try_in_child() -> str:
    """What came of it: right, wrong, or "" where it could not be tried."""
    if getattr(sys, "frozen", False) or not sys.executable:  # the program itself is its executable, or embeds Python
        return ""
    command = [sys.executable, "-m", "edge_llava.ggml.amx"]
    # ggml would attach a debugger to a crash
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_LIMIT_S, env=environment,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    if done.returncode == 0:
        return _RIGHT if done.stdout.split()[-1:] == [_RIGHT] else _WRONG
    crashed = -done.returncode in _CRASHES or done.returncode > 0xFFFF  # an exception of Windows
    return _WRONG if crashed else ""


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", _SIZE), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


def is_product_right() -> bool:
    """Multiplies two matrices by two threads on AMX. Where it does not work, the process may end here."""
    import numpy as np

    from edge_llava.ggml.weight_buffers import find_weight_buffers

    amx = find_weight_buffers().get("AMX")
    if amx is None:  # the system does not allow it
        return False
    new_context = bind("ggml_init", _P, [_InitParams])
    new_matrix = bind("ggml_new_tensor_2d", _P, [_P, ctypes.c_int, _INT64, _INT64])
    allocate = bind("ggml_backend_alloc_ctx_tensors_from_buft", _P, [_P, _P])
    put = bind("ggml_backend_tensor_set", None, [_P, _P, _SIZE, _SIZE])
    get = bind("ggml_backend_tensor_get", None, [_P, _P, _SIZE, _SIZE])
    backend = bind("ggml_backend_cpu_init", _P, [])()
    bind("ggml_backend_cpu_set_n_threads", None, [_P, ctypes.c_int])(backend, 2)

    random = np.random.default_rng(0)
    weights, rows = random.standard_normal((2, _WIDTH, _WIDTH), np.float32)
    packed = ctypes.create_string_buffer(weights.nbytes)
    quantize = bind("ggml_quantize_chunk", _SIZE, [ctypes.c_int, _P, _P, _INT64, _INT64, _INT64, _P])
    n_packed = quantize(_Q4_0, weights.ctypes.data, packed, 0, _WIDTH, _WIDTH, None)

    on_amx, elsewhere = (new_context(_InitParams(_ROOM, None, True)) for _ in range(2))
    matrix = new_matrix(on_amx, _Q4_0, _WIDTH, _WIDTH)
    allocate(on_amx, amx)
    put(matrix, packed, 0, n_packed)
    given = new_matrix(elsewhere, _F32, _WIDTH, _WIDTH)
    result = bind("ggml_mul_mat", _P, [_P, _P, _P])(elsewhere, matrix, given)
    graph = bind("ggml_new_graph", _P, [_P])(elsewhere)
    bind("ggml_build_forward_expand", None, [_P, _P])(graph, result)
    allocate(elsewhere, bind("ggml_backend_get_default_buffer_type", _P, [_P])(backend))
    put(given, rows.ctypes.data, 0, rows.nbytes)
    bind("ggml_backend_graph_compute", ctypes.c_int, [_P, _P])(backend, graph)
    product = np.empty((_WIDTH, _WIDTH), np.float32)
    get(result, product.ctypes.data, 0, product.nbytes)
    exact = rows @ weights.T
    error = np.linalg.norm(product - exact) / np.linalg.norm(exact)
    return bool(error < 0.2)  # 4 bits lose a tenth


def _leave_no_core() -> None:
    """A crash that is expected leaves no file behind."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _leave_no_core()
    # read by the parent process
    sys.stdout.buffer.write(f"{_RIGHT if is_product_right() else _WRONG}\n".encode())
