from __future__ import annotations

import dataclasses
import math
import os
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import ProjectorSpec
from edge_llava.device.thread_count import ThreadCount
from edge_llava.errors import BackendError, BundleError
from edge_llava.ggml.devices import GgmlDevice
from edge_llava.runtime.options import DecoderOptions
from edge_llava.runtime.vision import device_graph
from edge_llava.runtime.vision.device_graph import DeviceWeights, projector_device
from edge_llava.runtime.vision.ggml_graph import TensorFile
from edge_llava.runtime.vision.projector import Projector

SPEC = ProjectorSpec("mlp2x_gelu", in_features=96, out_features=160, quant="F32")


def weights(spec=SPEC, seed=0):
    random, width, tensors = np.random.default_rng(seed), spec.in_features, {}
    for layer in ("mm.0", "mm.2")[: 1 if spec.kind == "linear" else 2]:
        scale = 2 / np.sqrt(width)
        tensors[f"{layer}.weight"] = (scale * random.standard_normal((spec.out_features, width))).astype(np.float32)
        tensors[f"{layer}.bias"] = random.standard_normal(spec.out_features).astype(np.float32)
        width = spec.out_features
    return tensors


def write(path, tensors):
    """A GGUF of version 3 with one key, as llama.cpp writes it."""
    alignment, types = 32, {"float32": 0, "float16": 1}  # ggml's numbers

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    header += text("general.architecture") + struct.pack("<I", 8) + text("clip")
    data = b""
    for name, values in tensors.items():
        shape = values.shape[::-1]
        header += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        header += struct.pack("<IQ", types[values.dtype.name], len(data))
        data += values.tobytes() + bytes(-values.nbytes % alignment)
    path.write_bytes(header + bytes(-len(header) % alignment) + data)
    return path


def reference(features, tensors):
    """In float64, with the exact GELU."""
    exact = {name: values.astype(np.float64) for name, values in tensors.items()}
    rows = features @ exact["mm.0.weight"].T + exact["mm.0.bias"]
    if "mm.2.weight" in exact:
        rows = 0.5 * rows * (1 + np.vectorize(math.erf)(rows / math.sqrt(2)))
        rows = rows @ exact["mm.2.weight"].T + exact["mm.2.bias"]
    return rows


def fixed(n_threads):
    return ThreadCount(n_threads, adapts=False)


@pytest.fixture
def run(tmp_path):
    """run(features, tensors, spec) -> embedding rows."""

    def project(features, tensors, spec=SPEC, n_threads=1):
        projector = Projector(write(tmp_path / "projector.gguf", tensors), spec, fixed(n_threads))
        try:
            return projector(features)
        finally:
            projector.close()
            projector.close()

    return project


@pytest.mark.parametrize("n_rows", [1, 7, 64])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_equal_to_float64(n_rows, n_threads, run):
    features = np.random.default_rng(1).standard_normal((n_rows, 96)).astype(np.float32)
    rows = run(features, weights(), n_threads=n_threads)
    assert (rows.shape, rows.dtype) == ((n_rows, 160), np.float32)
    assert np.abs(rows - reference(features, weights())).max() < 1e-4


def test_gelu_is_the_exact_form(run):
    """The tanh form differs by up to 5e-4 and ggml's table by more."""
    spec = ProjectorSpec("mlp2x_gelu", 64, 64, "F32")
    identity = {
        "mm.0.weight": np.eye(64),
        "mm.0.bias": np.zeros(64),
        "mm.2.weight": np.eye(64),
        "mm.2.bias": np.zeros(64),
    }
    tensors = {name: values.astype(np.float32) for name, values in identity.items()}
    features = np.linspace(-5, 5, 64 * 20, dtype=np.float32).reshape(20, 64)
    rows = run(features, tensors, spec)
    assert np.abs(rows - reference(features, tensors)).max() < 1e-6
    x = features.astype(np.float64)
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert np.abs(rows - tanh).max() > 1e-4


def test_linear(run):
    spec = dataclasses.replace(SPEC, kind="linear", in_features=160, out_features=96)
    features = np.random.default_rng(1).standard_normal((5, 160)).astype(np.float32)
    rows = run(features, weights(spec), spec)
    assert np.abs(rows - reference(features, weights(spec))).max() < 1e-4


def test_strided_features(run):
    features = np.random.default_rng(1).standard_normal((96, 9)).astype(np.float32).T
    assert np.abs(run(features, weights()) - reference(features, weights())).max() < 1e-4


def test_demo_quantized(seeded_f32, seeded_q4, noise):
    """Q6_K weights of the same numbers: near, and not equal."""
    from edge_llava.bundle.bundle import Bundle

    features = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    rows = []
    for path in (seeded_f32, seeded_q4):
        bundle = Bundle.open(path)
        projector = Projector(bundle.file("projector"), bundle.manifest.projector, fixed(1))
        rows.append(projector(features))
        projector.close()
    cosine = (rows[0] * rows[1]).sum(1) / (np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1))
    assert 0.999 < cosine.min() < 1


def test_all_wrong_shapes_at_once(tmp_path):
    tensors = weights()
    tensors["mm.0.weight"] = tensors["mm.0.weight"].T.copy()
    tensors["mm.0.bias"] = tensors["mm.0.bias"].astype(np.float16)
    tensors["mm.2.bias"] = np.zeros(161, np.float32)
    del tensors["mm.2.weight"]
    path = write(tmp_path / "projector.gguf", tensors)
    with pytest.raises(BundleError) as caught:
        Projector(path, SPEC, fixed(1))
    assert str(caught.value).splitlines() == [
        f"{path} does not match its manifest:",
        "  - mm.0.weight has shape (160, 96), expected (96, 160)",
        "  - mm.0.bias is not float32",
        "  - mm.2.weight is missing",
        "  - mm.2.bias has shape (161,), expected (160,)",
        "Convert the checkpoint again.",
    ]


def test_damaged_file(tmp_path):
    path = write(tmp_path / "projector.gguf", weights())
    data = path.read_bytes()
    for damaged in (b"", data[:3], data[:40], data[:-100], b"GGML" + data[4:], data[:4] + b"\x09" + data[5:]):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match="is not a usable GGUF file"):
            Projector(path, SPEC, fixed(1))


def test_missing_file(tmp_path):
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        Projector(tmp_path / "none.gguf", SPEC, fixed(1))


def test_unknown_tensor(tmp_path):
    file = TensorFile(write(tmp_path / "projector.gguf", weights()))
    with pytest.raises(BackendError, match=r"has no tensor 'mm.4.weight'"):
        file.tensor("mm.4.weight")
    file.close()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8, 64])
def test_any_number_of_threads(seeded_f32, n_threads):
    """ggml's work memory grows with the threads; too little of it ends the process."""
    manifest = Bundle.open(seeded_f32).manifest
    projector = Projector(seeded_f32 / "projector.gguf", manifest.projector, fixed(n_threads))
    features = np.random.default_rng(3).standard_normal((576, 32), np.float32)
    rows = projector(features)
    projector.close()
    alone = Projector(seeded_f32 / "projector.gguf", manifest.projector, fixed(1))
    np.testing.assert_array_equal(rows, alone(features))
    alone.close()


def test_features_of_another_width_are_refused(seeded_f32):
    projector = Projector(seeded_f32 / "projector.gguf", Bundle.open(seeded_f32).manifest.projector, fixed(1))
    with pytest.raises(BackendError, match="32"):
        projector(np.zeros((4, 255), np.float32))
    projector.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_threads_stay_behind(seeded_f32):
    """OpenMP's would: each thread that computed keeps a team, and too many teams slow each other down."""
    projector = Projector(seeded_f32 / "projector.gguf", Bundle.open(seeded_f32).manifest.projector, fixed(3))
    features = np.zeros((16, 32), np.float32)
    with ThreadPoolExecutor(1) as another:
        another.submit(threading.get_ident).result()
        before = set(os.listdir("/proc/self/task"))
        another.submit(projector, features).result()
        for _ in range(500):  # threads end a moment after they were told to
            if set(os.listdir("/proc/self/task")) <= before:
                break
            time.sleep(0.01)
        assert set(os.listdir("/proc/self/task")) <= before
    projector.close()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_too_little_memory_is_an_error_and_not_an_abort(tmp_path):
    """ggml asserts that it gets its memory."""
    write(tmp_path / "projector.gguf", {"mm.0.weight": np.zeros((4096, 8192), np.float32)})
    code = """
import resource, sys
from pathlib import Path
from edge_llava.errors import BackendError
from edge_llava.runtime.vision.ggml_graph import Graph, TensorFile

Graph(1 << 20).close()
n = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (n, n))
for make in (lambda: Graph(1 << 30), lambda: TensorFile(Path(sys.argv[1]))):
    try:
        make()
    except BackendError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "projector.gguf")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("bytes of memory. Close other programs.") == 2


@pytest.mark.parametrize("source", ["seeded_f32", "seeded_q4"])
def test_on_a_device_of_llama_cpp(source, request):
    """The CPU is one, too: what is copied, allocated and sent is as of a GPU."""
    path = request.getfixturevalue(source)
    spec = Bundle.open(path).manifest.projector
    features = np.random.default_rng(0).standard_normal((64, spec.in_features)).astype(np.float32)
    here = Projector(path / "projector.gguf", spec, fixed(1))
    there = Projector(path / "projector.gguf", spec, fixed(1), device="CPU")
    assert there._on_device is not None
    for n_rows in (64, 1, 33):
        difference = np.abs(there(features[:n_rows]) - here(features[:n_rows])).max()
        assert difference < 1e-5
    assert there._on_device is not None
    for projector in (here, there):
        projector.close()
        projector.close()


def test_a_device_that_fails_leaves_it_to_the_cpu(seeded_f32, monkeypatch, caplog):
    spec = Bundle.open(seeded_f32).manifest.projector
    features = np.ones((4, spec.in_features), np.float32)
    missing = Projector(seeded_f32 / "projector.gguf", spec, fixed(1), device="NONE7")
    expected = Projector(seeded_f32 / "projector.gguf", spec, fixed(1))(features)
    assert np.array_equal(missing(features), expected)
    assert "cannot open NONE7 for the projector. The CPU computes it." in caplog.text

    def fail(*arguments):
        raise BackendError("CUDA0 has too little memory for the projector.")

    failing = Projector(seeded_f32 / "projector.gguf", spec, fixed(1), device="CPU")
    monkeypatch.setattr(DeviceWeights, "compute", fail)
    assert np.array_equal(failing(features), expected)
    assert failing._on_device is None
    assert "CUDA0 has too little memory for the projector. The CPU computes it." in caplog.text


def test_where_it_is_computed(monkeypatch):
    def device(name, kind, backend="CUDA"):
        return GgmlDevice(name, "A", backend, kind, 0, 0)

    present = [device("CPU", "cpu", "CPU"), device("RPC0", "gpu", "RPC"), device("CUDA0", "gpu")]
    monkeypatch.setattr(device_graph, "may_see_gpus", lambda: True)
    monkeypatch.setattr(device_graph, "list_devices", lambda: tuple(present))
    assert projector_device(DecoderOptions()) == "CUDA0"  # not on another computer
    assert projector_device(DecoderOptions(n_gpu_layers=0)) is None
    assert projector_device(DecoderOptions(devices=())) is None
    present.pop()
    assert projector_device(DecoderOptions()) is None
