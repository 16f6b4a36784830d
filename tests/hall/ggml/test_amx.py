"""Whether AMX is used is found out in a process of its own, once."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from edge_llava import demo
from edge_llava.bundle.bundle import Bundle
from edge_llava.ggml import amx
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.lifetime.work_thread import run_aside
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.runtime.vision.encoder import VisionEncoder

PYTHON = sys.executable
FAILS = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data directory, on a machine whose llama.cpp has AMX."""
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(amx, "has_amx", lambda: True)
    amx.can_use_amx.cache_clear()
    yield tmp_path / "home"
    amx.can_use_amx.cache_clear()


def pretend_child(monkeypatch, directory, program):
    """Has every child run this program instead."""
    path = directory / "python"
    path.write_text(f"#!{PYTHON}\n{program}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def ask_again():
    amx.can_use_amx.cache_clear()
    return amx.can_use_amx()


@pytest.mark.parametrize(("program", "works"), [("print('right')", True), ("print('wrong')", False), (FAILS, False)])
def test_a_verdict_is_kept(home, tmp_path, monkeypatch, program, works):
    pretend_child(monkeypatch, tmp_path, program)
    assert amx.can_use_amx() is works
    pretend_child(monkeypatch, tmp_path, "raise SystemExit('tried again')")
    assert ask_again() is works
    assert json.loads((home / "amx.json").read_text())["works"] is works


@pytest.mark.parametrize("change", ["library_digest", "read_cpu_name"])
def test_another_build_or_machine_is_tried_again(home, tmp_path, monkeypatch, change):
    pretend_child(monkeypatch, tmp_path, FAILS)
    assert amx.can_use_amx() is False
    pretend_child(monkeypatch, tmp_path, "print('right')")
    assert ask_again() is False
    monkeypatch.setattr(amx, change, lambda *_: "another")
    assert ask_again() is True


STOPPED = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize("program", ["raise SystemExit(1)", STOPPED, "raise SystemExit('No module named edge_llava')"])
def test_what_could_not_be_tried_is_not_kept(home, tmp_path, monkeypatch, program):
    pretend_child(monkeypatch, tmp_path, program)
    assert amx.can_use_amx() is False
    assert not (home / "amx.json").exists()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    assert ask_again() is False


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"tried": 1, "works": true}'])
def test_a_damaged_verdict_is_no_verdict(home, tmp_path, monkeypatch, kept):
    home.mkdir()
    (home / "amx.json").write_text(kept)
    pretend_child(monkeypatch, tmp_path, FAILS)
    assert amx.can_use_amx() is False


def test_a_program_that_is_its_own_executable_starts_none(home, tmp_path, monkeypatch):
    pretend_child(monkeypatch, tmp_path, "print('right')")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert amx.can_use_amx() is False


def test_a_build_without_it_starts_nothing(tmp_path, monkeypatch):
    pretend_child(monkeypatch, tmp_path, "print('right')")
    monkeypatch.setattr(amx, "has_amx", lambda: False)
    assert ask_again() is False
    amx.can_use_amx.cache_clear()


def test_the_tower_leaves_the_unit_of_a_thread_alone():
    """ONNX Runtime sets it up for itself, and ggml does not notice."""
    if not amx.can_use_amx():
        pytest.skip("AMX does not work here")
    bundle = Bundle.open(demo.BUNDLE)
    spec = bundle.manifest.vision
    options = EngineOptions(n_vision_threads=1, vision_provider="cpu", vision_spinning=False)

    def multiply_around_an_image():
        before = amx.is_product_right()
        VisionEncoder(bundle.file("vision"), spec, options)(
            np.zeros((1, 3, spec.image_size, spec.image_size), np.float32)
        )
        return before, amx.is_product_right()

    assert run_aside(multiply_around_an_image) == (True, True)


def test_a_sequence_does_not_compute_where_others_did():
    if not amx.can_use_amx():
        pytest.skip("AMX does not work here")
    bundle = Bundle.open(demo.BUNDLE)
    size, options = bundle.manifest.vision.image_size, EngineOptions(n_vision_threads=1, vision_provider="cpu")
    encoder = VisionEncoder(bundle.file("vision"), bundle.manifest.vision, options)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(n_ctx=128, n_threads=1))

    def read_before_and_after_an_image():
        sequence, found = OneSequence(decoder), []
        for _ in range(2):
            sequence.truncate(0)
            sequence.prefill_tokens(list(range(5, 69)))
            found.append(sequence.logits())
            encoder._session.run(["patch_features"], {"pixel_values": np.zeros((1, 3, size, size), np.float32)})
        return found

    before, after = run_aside(read_before_and_after_an_image)
    decoder.close()
    assert np.array_equal(before, after)


def test_the_real_child_comes_to_a_verdict():
    """Whatever this machine has: it is never left open, and what works multiplies rightly."""
    said = amx._try_in_child()
    assert said in ("right", "wrong")
    if not amx.has_amx():
        assert said == "wrong"
    if said == "right":
        assert run_aside(amx.is_product_right)
