"""ONNX Runtime: imported, and sessions opened where they can run. The only file that imports onnxruntime."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_llava.device.memory import is_out_of_memory
from edge_llava.device.onnx_packages import onnx_packages, repair
from edge_llava.errors import BackendError, BundleError, EdgeLlavaError, MissingExtra
from edge_llava.home.directories import cache_directory
from edge_llava.runtime.lifetime.native import kept_in_children

if TYPE_CHECKING:
    from edge_llava.runtime.options import VisionProvider

SILENT = 4  # fatal errors only: all others are raised, and would be written to stderr as well
_log = logging.getLogger("edge_llava.vision")
_CPU, _OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
_NAMES = {
    "cuda": "CUDA", "tensorrt": "TensorRT", "coreml": "CoreML", "directml": "DirectML", "openvino": "OpenVINO"
}  # fmt: skip
_EXTRAS = {"tensorrt": "cuda", "coreml": "cpu"}  # that bring a provider; others are called as it is
# What to ask a build for that contains the provider. Two runtimes share one GPU: CUDA's arena must not grow in powers
# of two and take llama.cpp's memory.
_BUILT_IN = {
    "cuda": (
        "CUDAExecutionProvider",
        {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"},
    ),
    "tensorrt": ("TensorrtExecutionProvider", {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}),
    "coreml": ("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"}),
    "directml": ("DmlExecutionProvider", {}),
}
# What ONNX Runtime raises for a file that the CPU cannot open. With other providers, some mean the device.
_FAULTS_OF_FILES = (
    "InvalidProtobuf", "NoSuchFile", "NoModel", "InvalidGraph", "InvalidArgument", "NotImplemented", "Fail",
)  # fmt: skip
_CUDA_FAULT = re.compile(r"(?:CUDA|CUDNN|CUBLAS) failure [^;]+")  # the rest names files, lines and the host
_MAX_REASON = 300
_holds_back = [False]


@dataclass(frozen=True)
class OpenSession:
    """A session that was opened.

    Attributes:
        session: ONNX Runtime's.
        provider: "cpu", "cuda", "tensorrt", "coreml", "directml" or "openvino": where it really runs.
        on_gpu: Whether that leaves the CPU to others.
    """

    session: Any
    provider: str
    on_gpu: bool


class _NotStarted(RuntimeError):
    """A provider that ONNX Runtime drops without an error, and why."""


def hold_back_messages() -> None:
    """From now on, ONNX Runtime writes nothing to stderr. For programs: it is one setting of a whole process."""
    _holds_back[0] = True


def import_onnxruntime() -> Any:
    """The module onnxruntime.

    Raises:
        MissingExtra: If it is not installed.
        BackendError: If it cannot be loaded, or was left empty by another package's removal.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra("cpu", "the vision encoder", "onnxruntime") from error
    except ImportError as error:  # a library that it needs, or the memory for one
        raise BackendError(f"onnxruntime is installed and cannot be loaded: {error}.{_several()}") from error
    if not hasattr(onnxruntime, "SessionOptions"):
        raise BackendError(
            "the module onnxruntime is empty, as it is after one of two packages of ONNX Runtime was removed. "
            f"Install it again: {repair(onnx_packages())}."
        )
    if several := _several().strip():
        _warn_once(several)
    if _holds_back[0]:
        onnxruntime.set_default_logger_severity(SILENT)
    return onnxruntime


def session_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises: its classes share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    # TypeError and UnicodeDecodeError come from names in the file, or a path, that are not UTF-8
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def check_provider(provider: VisionProvider) -> None:
    """
    Raises:
        BackendError: If a provider is asked for that the installed ONNX Runtime does not contain.
        MissingExtra: If its package is not installed.
    """
    if provider == "openvino":
        _register_openvino(import_onnxruntime())
    elif provider in _BUILT_IN:
        _choose(provider, import_onnxruntime())


def open_session(path: Path, new_settings: Callable[[], Any], provider: VisionProvider) -> OpenSession:
    """Opens a model where the provider says; "auto" takes the CPU where CUDA cannot start, and logs why, once.

    ONNX Runtime would do the latter itself, and print it to stdout.

    Args:
        path: An ONNX model.
        new_settings: Makes ONNX Runtime's SessionOptions.
        provider: Where to compute.

    Raises:
        BundleError: If the file is damaged or missing.
        BackendError: If there is too little memory, or the provider was asked for and cannot start here.
    """
    onnxruntime = import_onnxruntime()
    chosen = _choose(provider, onnxruntime)
    if chosen == "cpu":
        return _open_on_cpu(path, new_settings(), onnxruntime)
    try:
        if chosen == "openvino":
            return _open_openvino(path, new_settings(), onnxruntime)
        return _open_built_in(path, new_settings(), chosen, onnxruntime)
    except session_errors() as error:
        reason = shorten_reason(error)
    on_cpu = _open_on_cpu(path, new_settings(), onnxruntime)  # raises if it is the file's fault
    name = _NAMES[chosen]
    if provider == chosen:
        advice = "`edge-llava doctor` says more; --provider cpu does without."
        raise BackendError(f"{name} cannot start: {reason}. {advice}")
    warn_of_provider(name, f"is installed and cannot start: {reason}")
    return on_cpu


def warn_of_provider(name: str, fault: str) -> None:
    """Logs, once, that "auto" takes the CPU in place of a provider."""
    _warn_once(f"{name} {fault}. The CPU encodes images. See: edge-llava doctor")


def _choose(provider: VisionProvider, onnxruntime: Any) -> str:
    """What to try: "auto" means CUDA in builds that have it."""
    available = onnxruntime.get_available_providers()
    if provider == "auto":
        return "cuda" if _BUILT_IN["cuda"][0] in available else "cpu"
    if provider in _BUILT_IN and _BUILT_IN[provider][0] not in available:
        advice = _several() or f" Replace it: {repair(onnx_packages(), _EXTRAS.get(provider, provider))}."
        raise BackendError(f"the installed ONNX Runtime has no {_NAMES[provider]}.{advice}")
    return provider


def _open(path: Path, settings: Any, providers: Sequence[Any] | None, onnxruntime: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=False)
    return kept_in_children(session)


def _open_built_in(path: Path, settings: Any, chosen: str, onnxruntime: Any) -> OpenSession:
    name, options = _BUILT_IN[chosen]
    others: list[Any] = [_CPU]
    if chosen in ("cuda", "tensorrt"):
        _preload_cuda(onnxruntime)
    if chosen == "tensorrt":  # it takes minutes to plan a tower, once
        options = options | _plan_directory(path)
        others = [_BUILT_IN["cuda"], _CPU]
    if chosen == "directml":  # it supports neither; source: ONNX Runtime's page on DirectML
        settings.enable_mem_pattern = False
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = _open(path, settings, [(name, options), *others], onnxruntime)
    if name not in session.get_providers():
        raise _NotStarted(_missing_library(onnxruntime))
    return OpenSession(session, chosen, True)


def _plan_directory(path: Path) -> dict[str, str]:
    """Options that say where TensorRT keeps plans; without a directory for them, it plans again in each process.

    ONNX Runtime tells graphs apart by their names and shapes, and not by their weights: each file has its own place.
    """
    try:
        files = [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in path.parent.glob(f"{path.name}*")
        ]
        own = hashlib.sha256(repr((str(path.resolve()), sorted(files))).encode()).hexdigest()[:32]
        plans = cache_directory() / "tensorrt" / own
        plans.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, EdgeLlavaError):
        return {"trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0"}
    return {"trt_engine_cache_path": str(plans), "trt_timing_cache_path": str(plans)}


def _open_openvino(path: Path, settings: Any, onnxruntime: Any) -> OpenSession:
    """A session on Intel's GPU, or else its CPU, by the provider that is a package of its own."""
    _register_openvino(onnxruntime)
    kinds = onnxruntime.OrtHardwareDeviceType
    places = {device.device.type: device for device in onnxruntime.get_ep_devices() if device.ep_name == _OPENVINO}
    place = places.get(kinds.GPU) or places.get(kinds.CPU)
    if place is None:
        raise _NotStarted("it finds no device of Intel's")
    settings.add_provider_for_devices([place], {})
    return OpenSession(_open(path, settings, None, onnxruntime), "openvino", place.device.type == kinds.GPU)


@functools.cache
def _register_openvino(onnxruntime: Any) -> None:
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as error:
        raise MissingExtra("openvino", "the vision encoder on OpenVINO", "onnxruntime_ep_openvino") from error
    onnxruntime.register_execution_provider_library("edge-llava-openvino", plugin.get_library_path())


def _open_on_cpu(path: Path, settings: Any, onnxruntime: Any) -> OpenSession:
    try:
        return OpenSession(_open(path, settings, [_CPU], onnxruntime), "cpu", False)
    except session_errors() as error:
        if is_out_of_memory(error):
            raise BackendError(
                f"ONNX Runtime needs more memory for {path} than there is. Close other programs, use --low-memory, or "
                "convert with --vision int8."
            ) from error
        is_of_file = type(error).__name__ in _FAULTS_OF_FILES or isinstance(error, ValueError | TypeError)
        if is_of_file or str(path.parent) in str(error):  # before 1.24, weights that are missing are a RuntimeException
            raise _fault_of_file(path, error) from error
        raise BackendError(
            f"ONNX Runtime cannot open {path}: {shorten_reason(error)}. See: edge-llava doctor"
        ) from error


def _fault_of_file(path: Path, error: Exception) -> BundleError:
    return BundleError(f"ONNX Runtime cannot load {path}: {error}. Convert the checkpoint again.")


@functools.cache
def _preload_cuda(onnxruntime: Any) -> None:
    """Loads CUDA's libraries from the nvidia packages of this environment, where the loader would not look."""
    if not getattr(onnxruntime, "cuda_version", "") or not hasattr(onnxruntime, "preload_dlls"):
        return
    lines = list[str]()
    # its name in that module alone: other threads of an app go on printing
    onnxruntime.print = lambda *words: lines.append(" ".join(map(str, words)))
    try:
        onnxruntime.preload_dlls()
    finally:
        del onnxruntime.print
    for line in lines:
        _log.info("%s", line)


def _missing_library(onnxruntime: Any) -> str:
    """Why ONNX Runtime dropped CUDA: what the system's loader says about the provider's library."""
    name = "onnxruntime_providers_cuda"
    for path in Path(onnxruntime.__file__).parent.glob(f"capi/*{name}.*"):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            return shorten_reason(error)
    return "ONNX Runtime gives no reason"


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


def shorten_reason(error: BaseException) -> str:
    """What an error of ONNX Runtime says, in a line."""
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    fault = _CUDA_FAULT.search(str(error))
    return (fault[0] if fault else text)[:_MAX_REASON].strip(" .")


def _several() -> str:
    packages = onnx_packages()
    if len(packages) < 2:
        return ""
    return f" {' and '.join(packages)} are both installed, and overwrite each other. Keep one: {repair(packages)}."
