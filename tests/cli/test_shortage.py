"""Too little memory: said before a bundle is loaded, and why it could not be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.shortage import describe_shortage, note_shortage
from edge_llava.device.memory import is_out_of_memory
from edge_llava.doctor.bundle_findings import needed_bytes
from edge_llava.errors import BackendError
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.runtime.language import language_model, llama_log
from edge_llava.runtime.language.llama_log import first_error, last_error, route_log
from edge_llava.runtime.options import DecoderOptions, EngineOptions


@pytest.fixture
def bundle(seeded_q4):
    """The small bundle, as if it were a 7B model with a context of 4,096."""
    bundle = Bundle.open(seeded_q4)
    language = replace(bundle.manifest.language, n_layer=32, n_embd=4096, n_head=32, n_head_kv=32)
    return replace(bundle, manifest=replace(bundle.manifest, language=language))


def test_what_is_short_and_what_fits(bundle):
    cache = 4096 * 32 * 4096 * 2 * 2
    rest = needed_bytes(bundle, 4096) - cache
    assert describe_shortage(bundle, 4096, rest + cache) == ""
    text = describe_shortage(bundle, 4096, rest + cache - 1)
    assert f"takes about {(rest + cache) / 1e9:.1f} GB with 4096 positions" in text
    assert "-c 2048 fits" in text
    assert "-c 512 fits" in describe_shortage(bundle, 1024, rest + cache // 8)
    assert "-c 512 --kv-positions 512 fits" in describe_shortage(
        bundle, 1024, rest + cache // 8, "-c {0} --kv-positions {0}"
    )
    nothing = describe_shortage(bundle, 4096, rest)
    assert "--low-memory" in nothing
    assert "fits" not in nothing


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_container_that_is_too_small_is_noted(bundle, tmp_path, capfd):
    def write(place, text):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n")
    note_shortage(bundle, EngineOptions(), 4096, root=tmp_path)
    assert capfd.readouterr().err == ""
    write("proc/self/cgroup", "0::/\n")
    write("sys/fs/cgroup/memory.max", "2000000000\n")
    note_shortage(bundle, EngineOptions(), 4096, root=tmp_path)
    (line,) = capfd.readouterr().err.splitlines()
    assert "2.0 GB are free: -c 2048 fits" in line
    note_shortage(bundle, EngineOptions(), 4096, root=tmp_path / "nothing is known")
    assert capfd.readouterr().err == ""


_CHILD = """
import resource, sys
from pathlib import Path
from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.options import DecoderOptions
bundle = Bundle.open(Path(sys.argv[1]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (used, used))
Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(n_ctx=1 << 20, n_threads=1, kv_type="f32"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it limits its address space")
def test_a_context_that_does_not_fit_says_what_to_try(seeded_f32):
    command = [sys.executable, "-c", _CHILD, str(seeded_f32)]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "cannot make a context for 1048576 positions" in last
    assert "-c N" in last
    assert "--low-memory" in last
    assert "--gpu-layers" not in last


@pytest.mark.parametrize("on_gpu", [False, True])
def test_weights_that_do_not_fit_name_the_cause_and_what_to_try(seeded_q4, monkeypatch, on_gpu):
    """llama.cpp's last error is only that it failed to load a model."""
    bundle = Bundle.open(seeded_q4)

    def fail(path, params):
        for text in (b"ggml_backend_cuda: cudaMalloc failed: out of memory\n", b"failed to load model\n"):
            llama_log._log_message(4, text, None)

    gpu = (GgmlDevice("CUDA0", "A GPU", "CUDA", "gpu", 0, 0),)
    monkeypatch.setattr(language_model, "choose_devices", lambda *_: gpu if on_gpu else ())
    monkeypatch.setattr(language_model.llama_cpp, "llama_model_load_from_file", fail)
    with pytest.raises(BackendError, match=r"cudaMalloc failed: out of memory\. If memory is short") as caught:
        language_model.LanguageModel(bundle.file("language"), bundle.manifest.language, DecoderOptions())
    assert ("--gpu-layers N" in str(caught.value)) == on_gpu
    assert is_out_of_memory(caught.value)
    assert last_error() == "failed to load model"
    route_log()
    assert first_error() == last_error() == "it gave no reason"


def test_what_vulkan_writes_itself_is_an_error_and_nothing_else_is_lost(seeded_q4, monkeypatch, capfd):
    """Its allocations that fail are told on stderr, past llama.cpp's log."""
    bundle = Bundle.open(seeded_q4)

    def fail(path, params):
        os.write(2, b"ggml_vulkan: Device memory allocation of size 99 failed.\nanother thread's line\n")
        os.write(2, b"ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n")

    gpu = GgmlDevice("Vulkan0", "A GPU", "Vulkan", "gpu", 0, 0)
    monkeypatch.setattr(language_model, "choose_devices", lambda *_: (gpu,))
    monkeypatch.setattr(language_model.llama_cpp, "llama_model_load_from_file", fail)
    with pytest.raises(BackendError, match="Device memory allocation of size 99 failed"):
        language_model.LanguageModel(bundle.file("language"), bundle.manifest.language, DecoderOptions())
    assert capfd.readouterr().err == "another thread's line\n"
    assert last_error().endswith("ErrorOutOfDeviceMemory")
    os.write(2, b"as before\n")
    assert capfd.readouterr().err == "as before\n"


def test_commands_want_no_backtrace_of_gdb(run, monkeypatch):
    monkeypatch.delenv("GGML_NO_BACKTRACE", raising=False)
    assert run("models", "list").code == 0
    assert os.environ.pop("GGML_NO_BACKTRACE") == "1"


def test_a_note_does_not_stop_a_command(run, seeded_q4, monkeypatch):
    monkeypatch.setattr("edge_llava.doctor.bundle_findings._PROGRAMS", 1 << 60)
    result = run("chat", "-m", seeded_q4, "-p", "What?", "-n", 2, "-t", 1, "--no-cache")
    assert result.code == 0
    assert "are free: close other programs" in result.err
