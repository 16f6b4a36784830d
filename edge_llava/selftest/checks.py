"""The checks of the self-test, from the libraries to an answer. Nothing is imported before its check runs."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.facts import this_device
from edge_llava.errors import EdgeLlavaError, MissingExtra
from edge_llava.parity.check import Check
from edge_llava.selftest import BUNDLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_llava.runtime.options import EngineOptions

# Raised for a library that is missing, cannot be loaded, or has an incompatible version.
_LIBRARY_ERRORS = (ImportError, OSError, RuntimeError, AttributeError)
_ADVICE = (
    "Check that the app's libraries were collected; see docs/desktop.md."
    if getattr(sys, "frozen", False)
    else "See: edge-llava doctor"
)
_QUESTION = "What do you see?"
_MAX_NEW_TOKENS = 32
# The tokens that transformers generates greedily for the tiny bundle's reference image and the question. Each leads by
# at least 0.2, while logits have a standard deviation of 1.
_TINY_ANSWER = (27, 506, 106, 460, 131, 214, 429, 468)


def run_selftest(bundle: Bundle | None) -> Iterator[Check]:
    """Yields each check as soon as it is done, so that output shows how far it came if a library ends the process.

    Args:
        bundle: A bundle to verify and to ask as well; None uses only the tiny one of the self-test.
    """
    yield _guarded("process", _check_process)
    yield _guarded("llama.cpp", _check_llama_cpp)
    yield _guarded("ONNX Runtime", _check_onnxruntime)
    yield _guarded("tiny bundle", _try_tiny_bundle)
    if bundle is not None:
        yield _guarded("bundle", lambda: _verify(bundle))
        yield _guarded("answer", lambda: _ask(bundle))


def _guarded(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check(), {})
    except MissingExtra as error:
        return Check(name, False, f"{error} {_ADVICE}", {})
    except EdgeLlavaError as error:
        return Check(name, False, str(error), {})
    except _LIBRARY_ERRORS as error:
        return Check(name, False, f"{type(error).__name__}: {error}. {_ADVICE}", {})


def _check_process() -> str:
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


def _check_llama_cpp() -> str:
    import llama_cpp

    from edge_llava.ggml.devices import list_devices, offload_devices

    gpu = "+".join(device.name for device in offload_devices(list_devices())) or "CPU only"
    features = llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(" |")
    return f"llama-cpp-python {llama_cpp.__version__}, {gpu}: {features}"


def _check_onnxruntime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, built with {', '.join(onnxruntime.get_available_providers())}"


@dataclass(frozen=True)
class TinyAnswer:
    """What the tiny bundle answers about an image.

    Attributes:
        tokens: Its tokens.
        language_on, vision_on: Where they were computed, as in `Timings`.
    """

    tokens: tuple[int | None, ...]
    language_on: str
    vision_on: str | None

    @property
    def is_right(self) -> bool:
        """Whether they are the expected ones."""
        return self.tokens == _TINY_ANSWER


def answer_about_tiny_image(options: EngineOptions) -> TinyAnswer:
    """Asks the tiny bundle about its reference image.

    Raises:
        EdgeLlavaError: If an engine fails.
    """
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import SamplingOptions

    bundle = Bundle.open(BUNDLE)
    with LlavaModel(bundle, options) as model:
        session = model.session(SamplingOptions(temperature=0, max_new_tokens=len(_TINY_ANSWER)))
        tokens = tuple(token.id for token in session.ask(_QUESTION, image=_reference_image(bundle)))
        return TinyAnswer(tokens, model.language_on, model.vision_on)


def _try_tiny_bundle() -> str:
    from edge_llava.runtime.options import EngineOptions

    detail, answer = _verify(Bundle.open(BUNDLE)), answer_about_tiny_image(EngineOptions())
    if not answer.is_right:
        raise EdgeLlavaError(f"the answer is {answer.tokens}, expected {_TINY_ANSWER}: an engine computes incorrectly.")
    places = f"language on {answer.language_on}, vision on {answer.vision_on}"
    return f"{detail}; {len(answer.tokens)} tokens about an image are the expected ones; {places}"


def _verify(bundle: Bundle) -> str:
    from edge_llava.parity.verify import verify

    report = verify(bundle)
    wrong = [f"{check.name}: {check.detail}" for check in report.checks if not check.ok]
    if wrong:
        raise EdgeLlavaError(f"{bundle.path} does not compute here what it should: {'; '.join(wrong)}.")
    return f"{', '.join(check.name for check in report.checks)} match the bundle's record"


def _ask(bundle: Bundle) -> str:
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import SamplingOptions, tuned_options

    started = time.perf_counter()
    with LlavaModel(bundle, tuned_options(bundle)) as model:
        session = model.session(SamplingOptions(temperature=0, max_new_tokens=_MAX_NEW_TOKENS))
        text = "".join(token.text for token in session.ask(_QUESTION, image=_reference_image(bundle)))
    n_tokens = session.timings.decode_tokens if session.timings is not None else 0
    return f"{n_tokens} tokens in {time.perf_counter() - started:.1f} s, opening included: {text.strip()!r}"


def _reference_image(bundle: Bundle) -> NDArray[np.uint8]:
    from edge_llava.bundle.parity_record import ParityRecord

    return ParityRecord.load(bundle.file("parity")).images[-1]
