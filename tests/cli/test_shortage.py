"""Too little memory: said before a bundle is loaded, and why it could not be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import PIL.Image
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.options import EngineChoice
from edge_llava.cli.shortage import make_fit
from edge_llava.device.memory import is_out_of_memory
from edge_llava.errors import BackendError
from edge_llava.fitting.bundle_needs import predict_language_needs, predict_needs, predict_tower_needs
from edge_llava.fitting.room import Room
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.runtime.language import language_model, llama_log
from edge_llava.runtime.language.llama_log import first_error, last_error, route_log
from edge_llava.runtime.options import DecoderOptions, EngineOptions


@pytest.fixture
def bundle(seeded_q4):
    return Bundle.open(seeded_q4)


def room_for(bundle, options, less=0):
    """Room for a bundle with these options, or a few bytes less."""
    return Room(predict_needs(bundle, options).n_bytes - less)


def test_what_fits_is_taken_as_it_is_asked_for(bundle, capfd):
    options = EngineOptions()
    for room in (Room(None), room_for(bundle, options)):
        assert make_fit(bundle, options, force=False, room=room) == options
    assert capfd.readouterr().err == ""


def test_what_was_left_open_is_made_to_fit(bundle, capfd, monkeypatch):
    monkeypatch.setattr("edge_llava.fitting.settings.shortest_context", lambda *_: 512)
    options = EngineOptions(DecoderOptions(repack=False), low_memory=True)
    shorter = replace(options, decoder=replace(options.decoder, n_ctx=512))
    room = room_for(bundle, shorter)
    assert make_fit(bundle, options, force=False, room=room) == shorter
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"edge-llava: {bundle.name} takes ")
    assert line.endswith("Continuing with -c 512.")


def test_a_context_that_was_given_stays(bundle):
    """Of a server, also where only the size of the whole cache was given."""
    options = EngineOptions(DecoderOptions(repack=False), low_memory=True, n_positions=3000)
    shorter = replace(options, n_positions=1024)
    room = room_for(bundle, shorter)
    with pytest.raises(BackendError, match=r"What fits: --kv-positions 1024 \("):
        make_fit(bundle, options, force=False, may_shorten=False, room=room)
    assert make_fit(bundle, options, force=False, may_shorten=True, room=room) == shorter


def test_what_cannot_fit_is_refused_before_any_work(bundle, capfd):
    options = EngineOptions(DecoderOptions(n_ctx=1000, repack=False), low_memory=True)
    shorter = replace(options, decoder=replace(options.decoder, n_ctx=512))
    room = room_for(bundle, shorter)
    with pytest.raises(BackendError) as error:  # -c was given, so that nothing is left open
        make_fit(bundle, options, force=False, room=room)
    text = str(error.value)
    assert re.search(r"takes \d\.\d\d GB \(programs .*\), and \d\.\d\d GB are free\. What fits: -c 512 \(", text)
    assert text.endswith("See: edge-llava fit --force tries all the same.")
    assert make_fit(bundle, options, force=True, room=room) == options
    assert "-c 512" in capfd.readouterr().err
    with pytest.raises(BackendError, match="Close other programs, or convert with fewer bits"):
        make_fit(bundle, options, force=False, room=Room(1))


def test_weights_that_do_not_stay_in_memory_are_noted(bundle, capfd):
    options = EngineOptions(DecoderOptions(n_ctx=512, repack=False), low_memory=True)
    room = Room(predict_needs(bundle, options).kept_bytes)
    assert make_fit(bundle, options, force=False, room=room) == options
    assert "read from the disk again and again" in capfd.readouterr().err


def test_what_would_only_be_slow_is_offered_and_taken_where_it_may_be(bundle, capfd):
    options = EngineOptions(DecoderOptions(n_ctx=512))
    sparing = replace(options, decoder=replace(options.decoder, repack=False), low_memory=True)
    room = Room(predict_needs(bundle, sparing).kept_bytes)
    with pytest.raises(BackendError, match=r"Slow, because weights .* again and again: --low-memory\. See: "):
        make_fit(bundle, options, force=False, room=room)
    assert make_fit(bundle, options, force=False, room=room, may_be_slow=True) == sparing
    assert "Continuing with --low-memory." in capfd.readouterr().err


def test_only_what_is_opened_is_counted(bundle):
    """A command that encodes images needs no room for the language model, and the other way round."""
    options = EngineOptions(DecoderOptions(n_ctx=512, repack=False), low_memory=True)
    for predict in (predict_tower_needs, predict_language_needs):
        needs = predict(bundle, options)
        assert needs.n_bytes < predict_needs(bundle, options).n_bytes
        assert make_fit(bundle, options, force=None, room=Room(needs.n_bytes), predict=predict) == options
        with pytest.raises(BackendError):
            make_fit(bundle, options, force=None, room=Room(needs.kept_bytes - 1), predict=predict)


@pytest.mark.parametrize(
    "command", [("embed", "IMAGE", "-o", "OUT", "-m"), ("verify",), ("tune", "-m"), ("bench", "-m")]
)
def test_no_command_begins_what_cannot_fit(run, seeded_q4, monkeypatch, tmp_path, noise, command):
    image, out = tmp_path / "image.png", tmp_path / "out.safetensors"
    PIL.Image.fromarray(noise(40, 30)).save(image)
    monkeypatch.setattr("edge_llava.fitting.bundle_needs._PROGRAMS", 1 << 60)
    refused = run(*({"IMAGE": image, "OUT": out}.get(word, word) for word in command), seeded_q4)
    assert (refused.code, refused.out) == (9, "")
    assert "are free. Close other programs" in refused.err
    assert not out.exists()


def test_an_address_space_is_a_limit_as_well(bundle):
    """Where `ulimit -v` holds, what is mapped counts, too."""
    options = EngineOptions(DecoderOptions(n_ctx=512, repack=False), low_memory=True)
    needs = predict_needs(bundle, options)
    with pytest.raises(BackendError):
        make_fit(bundle, options, force=False, room=Room(None, needs.n_bytes - 1))
    assert make_fit(bundle, options, force=False, room=Room(None, needs.n_bytes)) == options


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


def test_chat_is_refused_or_forced(run, seeded_q4, monkeypatch):
    monkeypatch.setattr("edge_llava.fitting.bundle_needs._PROGRAMS", 1 << 60)
    command = ("chat", "-m", seeded_q4, "-p", "What?", "-n", 2, "-t", 1, "--no-cache")
    refused = run(*command)
    assert (refused.code, refused.out) == (9, "")
    assert "are free. Close other programs" in refused.err
    forced = run(*command, "--force")
    assert forced.code == 0
    assert "are free. Close other programs" in forced.err


def test_a_profile_with_a_smaller_cache_gives_way_to_plain_attention(bundle, monkeypatch):
    """q8_0 needs flash attention; --flash-attention off is for drivers that fail with it."""
    tuned = EngineOptions(DecoderOptions(kv_type="q8_0"))
    monkeypatch.setattr("edge_llava.runtime.options.tuned_options", lambda *_, **__: tuned)
    decoder = EngineChoice(flash_attention="off").options(bundle).decoder
    assert (decoder.kv_type, decoder.flash_attention) == ("auto", False)
    assert EngineChoice().options(bundle).decoder.kv_type == "q8_0"
