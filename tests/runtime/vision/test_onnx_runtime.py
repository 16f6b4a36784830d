"""Who is blamed where ONNX Runtime cannot open the tower: the bundle, the memory, the device, or the installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, BundleError, MissingExtra
from edge_llava.home.installation import install_command
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision import onnx_runtime
from edge_llava.runtime.vision.encoder import VisionEncoder

CUDA = EngineOptions(n_vision_threads=1, vision_provider="cuda")
AUTO = EngineOptions(n_vision_threads=1)
OLD_DRIVER = (
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/providers/cuda/cuda_call.cc:129 CUDA failure 35: "
    "CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=mine ; file=x.cc ; line=64"
)


@pytest.fixture
def bundle(seeded_f32):
    return Bundle.open(seeded_f32)


@pytest.fixture
def encoder(bundle):
    """encoder(options, path=None) -> the encoder of the small bundle's tower, or of another file."""

    def opened(options, path=None):
        return VisionEncoder(path or bundle.file("vision"), bundle.manifest.vision, options)

    return opened


@pytest.fixture
def cuda_build(monkeypatch):
    """cuda_build(error) -> this ONNX Runtime says that it has CUDA; with it, sessions raise `error`, or drop it."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def open_session(path, settings, *, providers, enable_fallback):
        if providers != ["CPUExecutionProvider"] and open_session.error is not None:
            raise open_session.error
        return real(path, settings, providers=["CPUExecutionProvider"], enable_fallback=enable_fallback)

    def prepare(error=None):
        open_session.error = error
        monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        onnx_runtime._warn_once.cache_clear()

    return prepare


def fail(message):
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return state.Fail(message)


def test_cuda_where_there_is_none(encoder):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match=rf"no CUDA\. .*`{re.escape(install_command('cuda'))}`\.$"):
        encoder(CUDA)
    assert encoder(AUTO).provider == "cpu"


def test_a_driver_that_is_too_old_is_not_the_bundles_fault(encoder, cuda_build, caplog, capfd):
    cuda_build(fail(OLD_DRIVER))
    with pytest.raises(BackendError) as caught:
        encoder(CUDA)
    reason = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    assert str(caught.value).startswith(f"CUDA cannot start: {reason}. `edge-llava doctor`")
    for _ in range(2):
        fallen_back = encoder(AUTO)
        assert fallen_back.provider == "cpu"
    assert fallen_back(np.zeros((1, 3, 56, 56), np.float32)).shape == (1, 64, 32)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"CUDA is installed and cannot start: {reason}. The CPU encodes images.")
    assert capfd.readouterr() == ("", "")


def test_a_gpu_without_kernels_leaves_the_image_to_the_cpu(encoder, cuda_build, monkeypatch, caplog):
    """Its session opens, and the first run fails."""
    import onnxruntime

    cuda_build()
    fails = onnxruntime.InferenceSession

    class Session:
        def __init__(self, path, settings, *, providers, enable_fallback):
            self._real = fails(path, settings, providers=providers, enable_fallback=enable_fallback)
            self._on_gpu = providers != ["CPUExecutionProvider"]

        def __getattr__(self, name):
            return getattr(self._real, name)

        def get_providers(self):
            return ["CUDAExecutionProvider"] * self._on_gpu + ["CPUExecutionProvider"]

        def run(self, *arguments):
            if self._on_gpu:
                raise RuntimeError("CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available")
            return self._real.run(*arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    opened = encoder(AUTO)
    assert (opened.provider, opened.on_gpu) == ("cpu", False)
    size = opened.spec.image_size
    assert opened(np.zeros((1, 3, size, size), np.float32)).shape[0] == 1
    (record,) = caplog.records
    assert "CUDA starts and cannot compute: CUDA error cudaErrorNoKernelImage" in record.message
    assert encoder(CUDA).provider == "cuda"  # asked for: its error is raised when an image is encoded


def test_a_library_that_cuda_lacks_is_named(encoder, cuda_build, monkeypatch, tmp_path, caplog):
    """ONNX Runtime drops a provider whose library does not load; the system's loader says why."""
    import onnxruntime

    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    cuda_build()
    with pytest.raises(BackendError, match=r"^CUDA cannot start: .*libonnxruntime_providers_cuda\.so: \w+"):
        encoder(CUDA)
    assert encoder(AUTO).provider == "cpu"
    assert "libonnxruntime_providers_cuda.so" in caplog.text


def test_cudas_libraries_are_loaded_first_and_in_silence(encoder, cuda_build, monkeypatch, capfd, caplog):
    """ONNX Runtime loads those of the nvidia packages when it is asked to, and prints what it misses."""
    import onnxruntime

    code = "def preload_dlls():\n    n_loaded.append(1)\n    print('Failed to load libcublasLt.so.13')"
    n_loaded, scope = [], vars(onnxruntime)
    for name in ("preload_dlls", "n_loaded", "cuda_version"):
        monkeypatch.setattr(onnxruntime, name, n_loaded, raising=False)
    exec(code, scope)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    cuda_build(fail(OLD_DRIVER))
    onnx_runtime._preload_cuda.cache_clear()
    caplog.set_level("INFO", "edge_llava.vision")
    for _ in range(2):
        encoder(AUTO)
    assert n_loaded == [1]
    assert "Failed to load libcublasLt.so.13" in caplog.text
    assert "print" not in scope
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("provider", "extra"),
    [("directml", "directml"), ("openvino", "openvino"), ("tensorrt", "cuda"), ("coreml", "cpu")],
)
def test_a_provider_that_is_not_installed(encoder, provider, extra):
    options = EngineOptions(n_vision_threads=1, vision_provider=provider)
    with pytest.raises((BackendError, MissingExtra), match=re.escape(install_command(extra))):
        encoder(options)


def test_tensorrt_keeps_its_plans_and_leaves_the_rest_to_cuda(encoder, monkeypatch, home):
    import onnxruntime

    asked, real = [], onnxruntime.InferenceSession

    def open_session(path, settings, *, providers, enable_fallback):
        asked.append(providers)
        return real(path, settings, providers=["CPUExecutionProvider"], enable_fallback=enable_fallback)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setenv("EDGE_LLAVA_CACHE", str(home / "kept"))
    with pytest.raises(BackendError, match="TensorRT cannot start"):  # this session has only the CPU's
        encoder(EngineOptions(n_vision_threads=1, vision_provider="tensorrt"))
    (name, options), (after, _), last = asked[0]
    assert (name, after, last) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    (plans,) = (home / "kept" / "tensorrt").iterdir()  # of this file alone: plans of another are not told apart
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(plans)


@pytest.mark.parametrize("options", [CUDA, AUTO])
def test_a_damaged_file_is_its_own_fault_with_cuda_too(encoder, bundle, cuda_build, options, tmp_path):
    """Missing weights are reported as a general failure, as CUDA's are: without CUDA they are missing, too."""
    cuda_build(fail("External data path does not exist"))
    path = Path(shutil.copy(bundle.file("vision"), tmp_path / "vision.onnx"))
    with pytest.raises(BundleError, match=r"vision\.onnx\.data.*Convert the checkpoint again\.$"):
        encoder(options, path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_too_little_memory_is_not_the_bundles_fault(bundle):
    code = """
import resource, sys
from pathlib import Path
from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.encoder import VisionEncoder
bundle = Bundle.open(sys.argv[1])
def opened():
    return VisionEncoder(bundle.file("vision"), bundle.manifest.vision, EngineOptions(n_vision_threads=1))
opened()  # what is loaded once takes no memory below
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
kept = []
try:
    while True:
        kept.append(opened())
except BackendError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, bundle.path], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ONNX Runtime needs more memory for "), done.stdout + done.stderr
    assert "--low-memory" in done.stdout


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("raise ImportError('libx.so.1: failed to map segment from shared object')", BackendError, "cannot be loaded"),
        ("raise ModuleNotFoundError('no onnxruntime')", MissingExtra, "Install it"),
    ],
)
def test_a_runtime_that_cannot_be_loaded_is_not_a_missing_one(encoder, tmp_path, monkeypatch, code, error, said):
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(error, match=said):
        encoder(AUTO)


def open_with(site, bundle, *arguments):
    """What `edge-llava embed` says where `site` comes first on the path."""
    image = site / "image.ppm"
    image.write_bytes(b"P6 4 4 255\n" + bytes(48))
    command = [sys.executable, "-m", "edge_llava.cli", "embed", image, "-m", bundle.path, "-o", site / "e.safetensors"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)


def pretend_installed(site, *packages):
    for name, version in packages:
        directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_module_that_was_left_empty(bundle, tmp_path):
    """Of two packages one was uninstalled, and took the files of the other along."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    pretend_installed(tmp_path, ("onnxruntime-gpu", "1.31.1"), ("onnxruntime", "1.32.0"))
    done = open_with(tmp_path, bundle)
    assert done.returncode == BackendError.exit_code
    assert done.stderr.strip().endswith(
        f"Install it again: `pip uninstall -y onnxruntime onnxruntime-gpu`, then `{install_command('cuda')}`."
    )


def test_two_packages_of_onnx_runtime(bundle, tmp_path):
    """The CPU's files lie over those of CUDA: it computes, and says once that there are two."""
    pretend_installed(tmp_path, ("onnxruntime-gpu", "1.26.0"), ("onnxruntime", "1.32.0"))
    said = (
        "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other. Keep one: "
        f"`pip uninstall -y onnxruntime onnxruntime-gpu`, then `{install_command('cuda12')}`."
    )
    done = open_with(tmp_path, bundle)
    assert (done.returncode, done.stderr.count(said)) == (0, 1), done.stderr
    refused = open_with(tmp_path, bundle, "--provider", "cuda")
    assert refused.returncode == BackendError.exit_code
    assert f"the installed ONNX Runtime has no CUDA. {said}" in refused.stderr


def test_an_app_keeps_its_messages_of_onnx_runtime(bundle, monkeypatch):
    """The library changes no setting of the whole process; only programs of ours do."""
    import onnxruntime

    levels = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", levels.append)
    monkeypatch.setattr(onnx_runtime, "_holds_back", [False])
    onnx_runtime.import_onnxruntime()
    assert levels == []
    onnx_runtime.hold_back_messages()
    onnx_runtime.import_onnxruntime()
    assert levels == [4]
