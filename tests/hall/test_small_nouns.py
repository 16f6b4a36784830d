"""Progress events, the memory of this process, and functions of ggml by name."""

from __future__ import annotations

import ctypes
import dataclasses
import subprocess
import sys

import pytest

from edge_llava.device.memory import peak_rss_bytes
from edge_llava.errors import BackendError
from edge_llava.ggml.library import bind
from edge_llava.home.progress import ProgressEvent, silent

MIB = 1 << 20


def test_event_is_frozen_and_counts_bytes_by_default() -> None:
    event = ProgressEvent("language model, Q4_K_M", 5, None)
    assert event.unit == "B"
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.done = 6  # type: ignore[misc]


def test_silent_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silent(ProgressEvent("x", 1, 1, "items"))
    assert capfd.readouterr() == ("", "")


def test_peak_is_in_bytes_grows_with_what_is_touched_and_never_falls() -> None:
    """Measured in a fresh process, which has imported almost nothing."""
    code = """
from edge_llava.device.memory import peak_rss_bytes
peaks = [peak_rss_bytes()]
block = b"x" * (100 << 20)
peaks.append(peak_rss_bytes())
del block
print(*peaks, peak_rss_bytes())
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    at_first, with_block, afterwards = (int(peak) for peak in output.split())
    assert 4 * MIB < at_first < 100 * MIB
    assert 90 * MIB < with_block - at_first < 110 * MIB
    assert afterwards >= with_block - MIB, "the kernel counts in batches of pages"


def test_peak_of_this_process() -> None:
    assert 4 * MIB < peak_rss_bytes() < 1 << 40


def test_function_of_ggml() -> None:
    type_name = bind("ggml_type_name", ctypes.c_char_p, [ctypes.c_int])
    assert [type_name(i) for i in (0, 1, 14)] == [b"f32", b"f16", b"q6_K"]


@pytest.mark.parametrize("symbol", ["ggml_mul_mat", "gguf_init_from_file", "ggml_graph_compute_with_ctx"])
def test_function_of_each_library(symbol: str) -> None:
    """In libggml-base, in libggml-base again, and in libggml-cpu."""
    function = bind(symbol, ctypes.c_void_p, [ctypes.c_void_p])
    assert function.restype is ctypes.c_void_p
    assert ctypes.cast(function, ctypes.c_void_p).value


def test_unknown_function() -> None:
    with pytest.raises(BackendError) as caught:
        bind("ggml_no_such_function", None, [])
    assert str(caught.value) == (
        "the installed llama-cpp-python has no function ggml_no_such_function. Install the version this release names."
    )
