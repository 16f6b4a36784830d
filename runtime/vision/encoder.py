"""The vision encoder: pixel values to patch features on ONNX Runtime. The only file that imports onnxruntime."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.device.threads import usable_threads
from edge_llava.errors import BackendError, BundleError, MissingExtra
from edge_llava.home.border import blaming_file
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.native import kept_in_children
from edge_llava.runtime.options import EngineOptions, VisionProvider
from edge_llava.runtime.vision.visual_tokens import RankedPatches

_log = logging.getLogger("edge_llava.vision")
_RANKING = ("cls_attention", "patch_keys")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_LOOK_S = 0.02
_SILENT = 4  # fatal errors only: all others are raised, and would be written to stderr as well
# Two runtimes share one GPU: the arena must not grow in powers of two and take llama.cpp's memory.
_CUDA_OPTIONS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}


class VisionEncoder:
    """A session of vision.onnx.

    Attributes:
        provider: "cuda" or "cpu": where it really runs.
    """

    def __init__(self, path: Path, spec: VisionSpec, options: EngineOptions) -> None:
        """Opens vision.onnx.

        With `low_memory`, the weights stay in their file, which the system may drop from memory, and are not rearranged
        for the CPU: opened at once, and slower for it.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtra("cpu", "the vision encoder", "onnxruntime") from error
        except ImportError as error:  # a library that it needs, or the memory for one
            raise BackendError(f"onnxruntime is installed and cannot be loaded: {error}.") from error
        self.spec = spec
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = usable_threads(options.n_vision_threads)
        settings.log_severity_level = _SILENT
        if not options.vision_spinning:
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.low_memory:
            settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file is called
        self._new_run_options = onnxruntime.RunOptions
        with blaming_file(BundleError, path, "Convert the checkpoint again."):
            self._session: Any = _open_session(path, settings, options.vision_provider, onnxruntime)
            self._check_signature(path)
        self.provider = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        if options.vision_provider == "cuda" and self.provider != "cuda":
            raise BackendError("ONNX Runtime could not start CUDA on this device. Check the driver, or use the CPU.")

    def __call__(self, pixels: NDArray[np.float32], cancel: threading.Event | None = None) -> NDArray[np.float32]:
        """Encodes pixel values (B, 3, S, S) float32 to patch features (B, P, D) float32.

        Raises:
            Cancelled: If `cancel` was set before the result was there.
            BackendError: If ONNX Runtime fails.
        """
        (features,) = self._run(["patch_features"], pixels, cancel)
        expected = (len(pixels), self.spec.n_features, self.spec.hidden_size)
        if features.shape != expected:  # a model may promise one shape and give another
            raise BackendError(f"the vision tower gave features {features.shape}, expected {expected}.")
        return features

    def rank(self, pixels: NDArray[np.float32], cancel: threading.Event | None = None) -> RankedPatches:
        """Encodes one square, pixel values (1, 3, S, S) float32, with what its patches are ranked and merged by.

        Only where the spec has a `ranking`. Raises: as calling it.
        """
        features, attention, keys = self._run(["patch_features", *_RANKING], pixels, cancel)
        return RankedPatches(features[0], attention[0], keys[0])

    def close(self) -> None:
        """Frees the session; safe to call twice."""
        self._session = None

    def _run(
        self, names: list[str], pixels: NDArray[np.float32], cancel: threading.Event | None
    ) -> list[NDArray[np.float32]]:
        run_options = self._new_run_options()
        run_options.log_severity_level = _SILENT
        with nullcontext() if cancel is None else _terminating(run_options, cancel):
            try:
                outputs: list[NDArray[np.float32]] = self._session.run(names, {"pixel_values": pixels}, run_options)
            except _session_errors() as error:
                if cancel is not None and cancel.is_set():
                    raise Cancelled from error
                raise BackendError(f"ONNX Runtime could not encode the image: {error}") from error
        return outputs

    def _check_signature(self, path: Path) -> None:
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        outputs = {entry.name: entry for entry in self._session.get_outputs()}
        if list(inputs) != ["pixel_values"] or "patch_features" not in outputs:
            raise BundleError(
                f"{path} maps {list(inputs)} to {list(outputs)}, expected pixel_values to patch_features."
            )
        size, n_features = self.spec.image_size, self.spec.n_features
        found = inputs["pixel_values"].shape[1:], outputs["patch_features"].shape[1:]
        wanted = [3, size, size], [n_features, self.spec.hidden_size]
        if found != wanted:
            raise BundleError(
                f"{path} maps {found[0]} to {found[1]}, the manifest says {wanted[0]} to {wanted[1]}. "
                "Convert the checkpoint again."
            )
        types = {name: entry.type for name, entry in (inputs | outputs).items() if entry.type != "tensor(float)"}
        if types:
            raise BundleError(f"{path} has {types}, expected numbers of float32. Convert the checkpoint again.")
        ranks = [outputs[name].shape[1:2] for name in _RANKING if name in outputs]
        if self.spec.ranking != "none" and ranks != [[n_features]] * len(_RANKING):
            raise BundleError(
                f"{path} does not give {' and '.join(_RANKING)} for {n_features} patches, as the manifest says. "
                "Convert the checkpoint again."
            )


def _session_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises: its classes share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    # TypeError and UnicodeDecodeError come from names in the file, or a path, that are not UTF-8
    return (*own, RuntimeError, ValueError, TypeError)


def _open_session(path: Path, settings: Any, provider: VisionProvider, onnxruntime: Any) -> Any:
    """Tries the chosen provider; where "auto" chose CUDA and that fails, the CPU.

    ONNX Runtime would do the latter itself, and print it to stdout.
    """
    has_cuda = _CUDA in onnxruntime.get_available_providers()
    if provider == "cuda" and not has_cuda:
        raise BackendError("the installed ONNX Runtime has no CUDA. Install it: pip install 'edge-llava[cuda]'")
    on_cuda: list[Any] = [(_CUDA, _CUDA_OPTIONS), _CPU]
    attempts = [on_cuda] * (has_cuda and provider != "cpu") + [[_CPU]] * (provider != "cuda")
    for providers in attempts:
        try:
            session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=False)
            return kept_in_children(session)
        except _session_errors() as error:
            failure = error
            _log.info("ONNX Runtime cannot load %s with %s: %s", path, providers, error)
    raise BundleError(f"ONNX Runtime cannot load {path}: {failure}. Convert the checkpoint again.") from failure


@contextmanager
def _terminating(run_options: Any, cancel: threading.Event) -> Iterator[None]:
    """While inside, setting `cancel` stops the run at its next node."""
    if cancel.is_set():
        raise Cancelled
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(_LOOK_S):
            run_options.terminate = cancel.is_set()

    watcher = threading.Thread(target=watch, name="edge-llava-cancel", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
