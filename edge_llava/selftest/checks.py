"""What a self-test looks at, from the libraries to an answer. Nothing is imported before it is looked at."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.facts import this_device
from edge_llava.errors import EdgeLlavaError, MissingExtra
from edge_llava.parity.check import Check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What comes of a library that is not there, cannot be loaded, or is of another version.
_LIBRARY_ERRORS = (ImportError, OSError, RuntimeError, AttributeError)
_ADVICE = "In a frozen app, are its libraries collected? See docs/desktop.md."
_QUESTION = "What is shown in this picture?"
_MAX_NEW_TOKENS = 32


def run_selftest(bundle: Bundle | None) -> Iterator[Check]:
    """Yields each check as soon as it is done: a library that ends the process leaves the last name behind.

    Args:
        bundle: One to verify and to ask, too; None uses only the tiny one that comes with the self-test.
    """
    yield _guarded("process", _look_at_process)
    yield _guarded("llama.cpp", _look_at_llama_cpp)
    yield _guarded("ONNX Runtime", _look_at_onnxruntime)
    with tempfile.TemporaryDirectory(prefix="edge-llava-", ignore_cleanup_errors=True) as directory:
        yield _guarded("tiny bundle", lambda: _try_tiny_bundle(Path(directory)))
    if bundle is not None:
        yield _guarded("bundle", lambda: _verify(bundle))
        yield _guarded("answer", lambda: _ask(bundle))


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look(), {})
    except MissingExtra as error:
        return Check(name, False, f"{error} {_ADVICE}", {})
    except EdgeLlavaError as error:
        return Check(name, False, str(error), {})
    except _LIBRARY_ERRORS as error:
        return Check(name, False, f"{type(error).__name__}: {error}. {_ADVICE}", {})


def _look_at_process() -> str:
    import numpy
    import PIL

    device, frozen = this_device(), ", frozen" if getattr(sys, "frozen", False) else ""
    versions = f"edge-llava {_version()}, numpy {numpy.__version__}, Pillow {PIL.__version__}"
    system = f"{platform.platform()}, {device.cpu}, {device.n_cpus} CPUs"
    return f"{versions}, Python {platform.python_version()}{frozen}; {system}"


def _version() -> str:
    try:
        return metadata.version("edge-llava")
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _look_at_llama_cpp() -> str:
    import llama_cpp

    gpu = "GPU" if llama_cpp.llama_supports_gpu_offload() else "CPU only"
    features = llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(" |")
    return f"llama-cpp-python {llama_cpp.__version__}, {gpu}: {features}"


def _look_at_onnxruntime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"


def _try_tiny_bundle(directory: Path) -> str:
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import EngineOptions, SamplingOptions
    from edge_llava.selftest.tiny_bundle import ANSWER, write_tiny_bundle

    bundle = write_tiny_bundle(directory)
    detail = _verify(bundle)
    with LlavaModel(bundle, EngineOptions()) as model:
        picture = _reference_picture(bundle)
        tokens = list(model.session(SamplingOptions(temperature=0)).ask(_QUESTION, image=picture))
    text = "".join(token.text for token in tokens)
    if text != ANSWER:
        raise EdgeLlavaError(f"the answer is {text!r}, expected {ANSWER!r}: an engine computes wrongly.")
    return f"{detail}; picture and question give {text!r}"


def _verify(bundle: Bundle) -> str:
    from edge_llava.parity.verify import verify

    report = verify(bundle)
    wrong = [f"{check.name}: {check.detail}" for check in report.checks if not check.ok]
    if wrong:
        raise EdgeLlavaError(f"{bundle.path} does not compute here what it should: {'; '.join(wrong)}.")
    return f"{', '.join(check.name for check in report.checks)} as where it was made"


def _ask(bundle: Bundle) -> str:
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import SamplingOptions, tuned_options

    started = time.perf_counter()
    with LlavaModel(bundle, tuned_options(bundle.path)) as model:
        session = model.session(SamplingOptions(temperature=0, max_new_tokens=_MAX_NEW_TOKENS))
        text = "".join(token.text for token in session.ask(_QUESTION, image=_reference_picture(bundle)))
    n_tokens = session.timings.decode_tokens if session.timings is not None else 0
    return f"{n_tokens} tokens in {time.perf_counter() - started:.1f} s, opening included: {text.strip()!r}"


def _reference_picture(bundle: Bundle) -> NDArray[np.uint8]:
    from edge_llava.bundle.parity_record import ParityRecord

    return ParityRecord.load(bundle.file("parity")).pictures[0]
