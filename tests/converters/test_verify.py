"""Verifying a bundle: damage to any file, and other checkpoints, must be found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.errors import BundleError, EdgeLlavaError
from edge_llava.home.progress import ProgressEvent
from edge_llava.parity.engines import CONVERTING
from edge_llava.parity.verify import VerifyReport, verify, verify_against

pytestmark = pytest.mark.convert

FILES = ("language.gguf", "parity.safetensors", "projector.gguf", "vision.onnx", "vision.onnx.data")


@pytest.fixture(scope="module")
def checkpoint(make_llava, shape) -> Path:
    """Read only."""
    return make_llava(shape(), seed=61)


@pytest.fixture(scope="module")
def made(checkpoint, convert_to) -> Path:
    """Its F32 bundle; read only."""
    return convert_to(checkpoint, quant="F32")


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    """A copy that the test may change."""
    shutil.copytree(made, tmp_path / "bundle")
    return tmp_path / "bundle"


def named(report: VerifyReport) -> dict[str, bool]:
    return {check.name: check.ok for check in report.checks}


def test_a_sound_bundle(made):
    events: list[ProgressEvent] = []
    report = verify(Bundle.open(made), events.append)
    assert report.ok
    assert named(report) == dict.fromkeys(("files", "preprocess", "vision", "projector", "language"), True)
    checks = {check.name: check for check in report.checks}
    assert checks["files"].figures == {"bytes": Bundle.open(made).n_bytes}
    assert checks["preprocess"].figures == {"max_abs": 0.0}
    for stage in ("vision", "projector"):
        assert checks[stage].figures["cosine_min"] > 0.999999
        assert checks[stage].figures["max_abs"] < 1e-4
    assert checks["language"].figures == {"tokens_equal": 16, "tokens_total": 16}
    assert [event.done for event in events if event.stage == "verifying"] == [1, 2, 3, 4]
    assert checks["language"].to_dict()["tokens_equal"] == 16


def test_a_quantized_bundle_is_compared_with_itself(converted_q4):
    report = verify(Bundle.open(converted_q4), options=CONVERTING)
    assert report.ok
    assert {check.name: check for check in report.checks}["language"].figures["tokens_equal"] == 16


@pytest.mark.parametrize("where", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(bundle, name, where):
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(data)
    report = verify(Bundle.open(bundle))
    assert named(report) == {"files": False}
    assert [line.split(":")[0] for line in report.checks[0].detail.splitlines()[1:-1]] == [f"  - {name}"]


def test_all_damaged_files_are_named(bundle):
    for name in ("projector.gguf", "vision.onnx.data"):
        data = bytearray((bundle / name).read_bytes())
        data[-1] ^= 0x80
        (bundle / name).write_bytes(data)
    lines = verify(Bundle.open(bundle)).checks[0].detail.splitlines()
    assert sorted(line.split(":")[0] for line in lines[1:-1]) == ["  - projector.gguf", "  - vision.onnx.data"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_not_accepted(bundle, name):
    with (bundle / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=name):
        Bundle.open(bundle)


def test_a_flipped_bit_of_the_manifest(bundle):
    path = bundle / "manifest.json"
    text = path.read_text()
    digest = json.loads(text)["files"]["language"]["sha256"]
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    path.write_text(text.replace(digest, other))
    report = verify(Bundle.open(bundle))
    assert not report.ok
    assert "language.gguf" in report.checks[0].detail
    path.write_text(text.replace('"n_embd"', '"n_embe"'))
    with pytest.raises(BundleError, match="n_embd is missing"):
        Bundle.open(bundle)


def test_against_its_checkpoint(made, checkpoint):
    report = verify_against(Bundle.open(made), Checkpoint.open(str(checkpoint)))
    assert report.ok
    assert list(named(report)) == ["tokenizer", "preprocess", "vision", "projector", "language", "whole", "cost"]
    figures = {check.name: check.figures for check in report.checks}
    assert figures["preprocess"]["max_abs"] == 0.0
    for stage in ("vision", "projector", "language", "whole"):
        assert figures[stage]["cosine_min"] > 0.999999
        assert figures[stage]["max_abs"] < 1e-4
    for stage in ("language", "whole"):
        assert (figures[stage]["tokens_equal"], figures[stage]["tokens_total"]) == (16, 16)
    assert max(figures["cost"].values()) < 1e-9


def test_the_cost_of_each_stage(converted_q4, seeded_checkpoint):
    report = verify_against(Bundle.open(converted_q4), Checkpoint.open(str(seeded_checkpoint)))
    cost = report.checks[-1]
    assert report.ok
    assert abs(cost.figures["vision_loss"]) < 1e-9 < cost.figures["projector_loss"] < cost.figures["language_loss"]
    assert cost.detail.endswith("language costs most")


def test_against_another_checkpoint(made, make_llava, shape):
    report = verify_against(Bundle.open(made), Checkpoint.open(str(make_llava(shape(), seed=62))))
    assert not report.ok
    held = named(report)
    assert held["preprocess"]
    assert not held["vision"]
    assert not held["projector"]
    assert not held["language"]


def test_against_a_fine_tuned_language_model(made, checkpoint, copy_of, weights_of, put_weights):
    tuned, weights = copy_of(checkpoint), weights_of(checkpoint)
    weights["language_model.model.layers.1.mlp.down_proj.weight"] *= 1.5
    put_weights(tuned, weights)
    held = named(verify_against(Bundle.open(made), Checkpoint.open(str(tuned))))
    assert held["vision"]
    assert held["projector"]
    assert not held["language"]


@pytest.mark.parametrize(
    "changes", [{"width": 96, "heads": 3, "kv_heads": 3}, {"image_size": 70}, {"vision_width": 96}]
)
def test_against_a_checkpoint_of_another_shape(made, make_llava, shape, changes):
    other = Checkpoint.open(str(make_llava(shape(**changes), seed=63)))
    with pytest.raises(EdgeLlavaError):
        verify_against(Bundle.open(made), other)
