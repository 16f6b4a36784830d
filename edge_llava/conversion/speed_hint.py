"""Says before a conversion that the chosen weights are slow on this processor."""

from __future__ import annotations

import ctypes
import platform

from edge_llava.ggml.library import bind

# llama.cpp multiplies many rows by K-quants and IQ4_XS in tiles, but not by these, unless there is AMX.
_SLOW_ON_X86 = ("Q4_0", "IQ4_NL")


def find_slowness(quant: str) -> str | None:
    """A message if images and questions are read much more slowly than with Q4_K_M; None if not."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if quant not in _SLOW_ON_X86 or not is_x86 or bind("ggml_cpu_has_amx_int8", ctypes.c_int, [])():
        return None
    return f"{quant} reads images and questions at about half the speed of Q4_K_M on this processor, which has no AMX."
