"""Says before a conversion that the chosen weights are slow on this processor."""

from __future__ import annotations

import platform

from edge_llava.ggml.amx import can_use_amx

# llama.cpp multiplies many rows by K-quants and IQ4_XS in tiles, but not by these. With AMX, it is quick at Q4_0.
_SLOW_ON_X86 = ("Q4_0", "IQ4_NL")


def find_slowness(quant: str) -> str | None:
    """A message if images and questions are read much more slowly than with Q4_K_M; None if not."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if quant not in _SLOW_ON_X86 or not is_x86 or (quant == "Q4_0" and can_use_amx()):
        return None
    return f"{quant} reads images and questions at about half the speed of Q4_K_M on this processor."
