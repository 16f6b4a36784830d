from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, BundleError
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.encoder import VisionEncoder

ONE_THREAD = EngineOptions(n_vision_threads=1)


@pytest.fixture
def bundle(seeded_f32):
    return Bundle.open(seeded_f32)


@pytest.fixture
def spec(bundle):
    """Of a tower that only gives features, as those do that are written here."""
    return dataclasses.replace(bundle.manifest.vision, ranking="none")


@pytest.fixture
def encoder(bundle, spec):
    encoder = VisionEncoder(bundle.file("vision"), spec, ONE_THREAD)
    yield encoder
    encoder.close()
    encoder.close()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).standard_normal((1, 3, 56, 56)).astype(np.float32)


def test_demo(encoder, pixels):
    features = encoder(pixels)
    assert (features.shape, features.dtype) == ((1, 64, 32), np.float32)
    assert np.isfinite(features).all()
    assert encoder(pixels).tobytes() == features.tobytes()
    assert np.abs(encoder(pixels + 1) - features).max() > 0.1


def test_batch(encoder, pixels):
    both = encoder(np.concatenate([pixels, pixels + 1]))
    assert both.shape == (2, 64, 32)
    assert np.abs(both[:1] - encoder(pixels)).max() < 1e-4


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 1000, b"\x08\x08\xff\xff"])
def test_no_onnx(content, tmp_path, spec):
    path = tmp_path / "vision.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        VisionEncoder(path, spec, ONE_THREAD)
    assert str(caught.value).startswith(f"ONNX Runtime cannot load {path}: ")
    assert str(caught.value).endswith("Convert the checkpoint again.")


def test_missing_file(tmp_path, spec):
    with pytest.raises(BundleError, match=r"^ONNX Runtime cannot load "):
        VisionEncoder(tmp_path / "none.onnx", spec, ONE_THREAD)


@pytest.mark.parametrize("data", [None, 1000])
def test_weights_missing_or_truncated(data, bundle, spec, tmp_path):
    (tmp_path / "vision.onnx").write_bytes(bundle.file("vision").read_bytes())
    if data is not None:
        (tmp_path / "vision.onnx.data").write_bytes(bundle.file("vision_data").read_bytes()[:-data])
    with pytest.raises(BundleError, match=r"^ONNX Runtime cannot load "):
        VisionEncoder(tmp_path / "vision.onnx", spec, ONE_THREAD)


def test_the_manifest_counts(bundle, spec):
    with pytest.raises(BundleError, match=r"the manifest says \[3, 56, 56\] to \[65, 32\]"):
        VisionEncoder(bundle.file("vision"), dataclasses.replace(spec, n_dropped_rows=0), ONE_THREAD)


def test_ranking_comes_with_the_same_features(bundle, encoder, pixels):
    patches = encoder.rank(pixels)
    assert patches.features.tobytes() == encoder(pixels).tobytes()
    assert (patches.attention.shape, patches.keys.shape) == ((64,), (64, 16))
    assert 0 < patches.attention.min() < patches.attention.sum() < 1  # the rest is on the class token itself
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        encoder.rank(pixels, cancel)


def test_cpu_on_request(bundle, spec):
    assert VisionEncoder(bundle.file("vision"), spec, EngineOptions(vision_provider="cpu")).provider == "cpu"


def test_wrong_pixels(encoder, pixels):
    for wrong in (pixels[0], pixels[:, :, 1:], pixels.astype(np.float64)):
        with pytest.raises(BackendError, match=r"^ONNX Runtime could not encode the image: "):
            encoder(wrong)


def test_cancelled_before(encoder, pixels):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        encoder(pixels, cancel)
    assert encoder(pixels, threading.Event()).tobytes() == encoder(pixels).tobytes()


def test_waiting_asleep_changes_nothing_but_the_waiting(bundle, spec, encoder, pixels):
    asleep = VisionEncoder(bundle.file("vision"), spec, dataclasses.replace(ONE_THREAD, vision_spinning=False))
    try:
        assert np.array_equal(asleep(pixels), encoder(pixels))
    finally:
        asleep.close()


def test_damage_is_raised_and_written_nowhere(bundle, spec, pixels, tmp_path, capfd):
    """ONNX Runtime's own habit is to write errors to stderr, and what it tries next to stdout."""
    whole, random, errors = bundle.file("vision").read_bytes(), np.random.default_rng(5), 0
    for _ in range(60):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        (tmp_path / "vision.onnx").write_bytes(data)
        try:
            VisionEncoder(tmp_path / "vision.onnx", spec, ONE_THREAD)(pixels)
        except (BundleError, BackendError):
            errors += 1
    assert errors > 10
    assert capfd.readouterr() == ("", "")


def test_onnx_runtime_tells_nobody_of_this_device(seeded_f32, tmp_path):
    code = (
        "import sys, edge_llava, numpy\n"
        "with edge_llava.load(sys.argv[1]) as model:\n"
        "    model.embed_image(numpy.zeros((9, 9, 3), numpy.uint8))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "EDGE_LLAVA_HOME": "elsewhere"}
    subprocess.run([sys.executable, "-c", code, str(seeded_f32)], check=True, env=environment, cwd=tmp_path)
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name] == []


@pytest.mark.parametrize("name", [b"pixel_values", b"patch_features"])
def test_names_that_are_not_utf8(seeded_f32, tmp_path, name):
    """Python cannot show them; that is an error of the file, too."""
    bundle = Bundle.open(shutil.copytree(seeded_f32, tmp_path / "b"))
    path = bundle.file("vision")
    path.write_bytes(path.read_bytes().replace(name, b"\xff" * len(name)))
    with pytest.raises(BundleError, match=r"vision\.onnx"):
        VisionEncoder(path, bundle.manifest.vision, ONE_THREAD)
