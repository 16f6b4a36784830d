"""A GPU's driver that ends the process: the next one computes on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.cli import crashes
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.runtime.options import DecoderOptions, EngineOptions

GPU = GgmlDevice("Vulkan0", "A GPU", "Vulkan", "gpu", 4 << 30, 6 << 30)
END = """
import os, signal, sys
from edge_llava.bundle.bundle import Bundle
from edge_llava.cli import crashes
from edge_llava.fitting import bundle_needs
from edge_llava.ggml import library
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.runtime.options import EngineOptions
bundle_needs.used_devices = lambda options: (GgmlDevice("Vulkan0", "A GPU", "Vulkan", "gpu", 1, 1),)
library.may_see_gpus = lambda: True
crashes.avoid_crash(Bundle.open(sys.argv[1]), EngineOptions())
number = int(sys.argv[2])
if number:
    os.kill(os.getpid(), number)
"""


@pytest.fixture
def avoid(seeded_q4, monkeypatch):
    """avoid(options) -> the options to load the bundle with, where llama.cpp sees a GPU."""
    monkeypatch.setattr("edge_llava.fitting.bundle_needs.used_devices", lambda options: (GPU,))
    monkeypatch.setattr("edge_llava.ggml.library.may_see_gpus", lambda: True)
    monkeypatch.setattr(crashes, "_watch", lambda path: path.unlink(missing_ok=True))
    return lambda options: crashes.avoid_crash(Bundle.open(seeded_q4), options)


def end_with(bundle, number):
    ended = subprocess.run([sys.executable, "-c", END, bundle, str(int(number))], capture_output=True, check=False)
    assert ended.returncode == -number


@pytest.mark.skipif(os.name == "nt", reason="it sends signals")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_the_next_process_uses_the_cpu_until_it_is_told_otherwise(avoid, seeded_q4, capfd, number):
    end_with(seeded_q4, number)
    for _ in range(2):
        assert avoid(EngineOptions()).decoder == DecoderOptions(devices=())
        said = capfd.readouterr().err
        assert "computing on the CPU" in said
        assert "--device Vulkan0" in said
    named = EngineOptions(DecoderOptions(devices=("Vulkan0",)))
    assert avoid(named) == named
    assert avoid(EngineOptions()) == EngineOptions()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="it sends signals")
@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_no_other_end_is_taken_for_a_crash(avoid, seeded_q4, number):
    end_with(seeded_q4, number)
    assert avoid(EngineOptions()) == EngineOptions()


ABORT = """
import os, sys
import llama_cpp
from edge_llava.cli import crashes
crashes.explain_aborts()
if len(sys.argv) > 2:
    crashes._watch(__import__("pathlib").Path(sys.argv[2]))
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_default_params()
params.no_alloc, params.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_MMAP  # which llama.cpp asserts never to happen
llama_cpp.llama_model_load_from_file(os.fsencode(sys.argv[1]), params)
"""


def test_what_ggml_aborts_for_is_said(seeded_q4, tmp_path):
    crash = tmp_path / "crash.txt"
    command = [sys.executable, "-c", ABORT, seeded_q4 / "language.gguf", crash]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 9
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("edge-llava: llama.cpp cannot continue: llama-model.cpp:")
    assert "GGML_ASSERT(!ml.no_alloc) failed. See: edge-llava doctor" in last
    assert "GGML_ASSERT" in crash.read_text()


def test_a_number_of_blocks_is_taken_as_it_is(avoid, seeded_q4):
    end_with(seeded_q4, signal.SIGABRT)
    some = EngineOptions(replace(DecoderOptions(), n_gpu_layers=2))
    assert avoid(some) == some


def test_nothing_is_kept_for_a_cpu(seeded_q4, home):
    options = EngineOptions(DecoderOptions(n_gpu_layers=0))
    assert crashes.avoid_crash(Bundle.open(seeded_q4), options) == options
    assert not (home / "crashes").exists()
