"""ONNX Runtime: imported, and sessions opened where they can run. The only file that imports onnxruntime."""

from __future__ import annotations

import ctypes
import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_llava.device.memory import is_out_of_memory
from edge_llava.device.onnx_packages import onnx_packages, repair
from edge_llava.errors import BackendError, BundleError, MissingExtra
from edge_llava.runtime.lifetime.native import kept_in_children

if TYPE_CHECKING:
    from edge_llava.runtime.options import VisionProvider

SILENT = 4  # fatal errors only: all others are raised, and would be written to stderr as well
_log = logging.getLogger("edge_llava.vision")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Two runtimes share one GPU: the arena must not grow in powers of two and take llama.cpp's memory.
_CUDA_OPTIONS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
# What ONNX Runtime raises for a file, whatever is to compute it. On a CPU "Fail" is the file's fault, too.
_FAULTS_OF_FILES = ("InvalidProtobuf", "NoSuchFile", "NoModel", "InvalidGraph", "InvalidArgument", "NotImplemented")
_CUDA_FAULT = re.compile(r"(?:CUDA|CUDNN|CUBLAS) failure [^;]+")  # the rest names files, lines and the host
_MAX_REASON = 300
_holds_back = [False]


@dataclass(frozen=True)
class OpenSession:
    """A session that was opened.

    Attributes:
        session: ONNX Runtime's.
        provider: "cuda" or "cpu": where it really runs.
    """

    session: Any
    provider: str


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


def open_session(path: Path, settings: Any, provider: VisionProvider) -> OpenSession:
    """Opens a model where the provider says; "auto" takes the CPU where CUDA cannot start, and logs why, once.

    ONNX Runtime would do the latter itself, and print it to stdout.

    Args:
        path: An ONNX model.
        settings: ONNX Runtime's SessionOptions.
        provider: Where to compute.

    Raises:
        BundleError: If the file is damaged or missing.
        BackendError: If there is too little memory, or the provider was asked for and cannot start here.
    """
    onnxruntime = import_onnxruntime()
    has_cuda = _CUDA in onnxruntime.get_available_providers()
    if provider == "cuda" and not has_cuda:
        advice = _several() or f" Replace it: {repair(onnx_packages(), 'cuda')}."
        raise BackendError(f"the installed ONNX Runtime has no CUDA.{advice}")
    if provider == "cpu" or not has_cuda:
        return OpenSession(_open_on_cpu(path, settings, onnxruntime), "cpu")
    _preload_cuda(onnxruntime)
    try:
        session = _open(path, settings, [(_CUDA, _CUDA_OPTIONS), _CPU], onnxruntime)
        if _CUDA in session.get_providers():
            return OpenSession(session, "cuda")
        reason = _missing_library(onnxruntime)
    except session_errors() as error:
        if type(error).__name__ in _FAULTS_OF_FILES:
            raise _fault_of_file(path, error) from error
        session, reason = _open_on_cpu(path, settings, onnxruntime), _shorten(error)  # raises if it is the file's fault
    if provider == "cuda":
        raise BackendError(
            f"CUDA cannot start: {reason}. `edge-llava doctor` says what to do; --provider cpu does without."
        )
    _warn_once(f"CUDA is installed and cannot start: {reason}. The CPU encodes images. `edge-llava doctor` says more.")
    return OpenSession(session, "cpu")


def _open(path: Path, settings: Any, providers: Sequence[Any], onnxruntime: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=False)
    return kept_in_children(session)


def _open_on_cpu(path: Path, settings: Any, onnxruntime: Any) -> Any:
    try:
        return _open(path, settings, [_CPU], onnxruntime)
    except session_errors() as error:
        if is_out_of_memory(error):
            raise BackendError(
                f"ONNX Runtime needs more memory for {path} than there is. Close other programs, use --low-memory, or "
                "convert with --vision int8."
            ) from error
        is_of_file = type(error).__name__ in (*_FAULTS_OF_FILES, "Fail") or isinstance(error, ValueError | TypeError)
        if is_of_file or str(path.parent) in str(error):  # before 1.24, weights that are missing are a RuntimeException
            raise _fault_of_file(path, error) from error
        raise BackendError(
            f"ONNX Runtime cannot open {path} here: {_shorten(error)}. Try: edge-llava doctor"
        ) from error


def _fault_of_file(path: Path, error: Exception) -> BundleError:
    return BundleError(f"ONNX Runtime cannot load {path}: {error}. Convert the checkpoint again.")


@functools.cache
def _preload_cuda(onnxruntime: Any) -> None:
    """Loads CUDA's libraries from the nvidia packages of this environment, where the loader would not look."""
    if not getattr(onnxruntime, "cuda_version", "") or not hasattr(onnxruntime, "preload_dlls"):
        return
    lines = list[str]()
    onnxruntime.print = lines.append  # in that module alone: other threads of an app go on printing
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
            return _shorten(error)
    return "ONNX Runtime gives no reason"


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


def _shorten(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    fault = _CUDA_FAULT.search(str(error))
    return (fault[0] if fault else text)[:_MAX_REASON].strip(" .")


def _several() -> str:
    packages = onnx_packages()
    if len(packages) < 2:
        return ""
    return f" {' and '.join(packages)} are both installed, and overwrite each other. Keep one: {repair(packages)}."
