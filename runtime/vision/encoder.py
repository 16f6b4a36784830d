"""The vision encoder: pixel values to patch features on ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.device.memory import is_out_of_memory
from edge_llava.device.threads import usable_threads
from edge_llava.errors import BackendError, BundleError
from edge_llava.home.border import blaming_file
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.work_thread import run_aside
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.onnx_runtime import (
    SILENT,
    import_onnxruntime,
    open_session,
    session_errors,
    shorten_reason,
    warn_of_provider,
)
from edge_llava.runtime.vision.visual_tokens import RankedPatches

_RANKING = ("cls_attention", "patch_keys")
_LOOK_S = 0.02


class VisionEncoder:
    """A session of vision.onnx.

    Attributes:
        provider: "cpu", "cuda", "tensorrt", "coreml", "directml" or "openvino": where it really runs.
        on_gpu: Whether that leaves the CPU to others.
    """

    def __init__(self, path: Path, spec: VisionSpec, options: EngineOptions) -> None:
        """Opens vision.onnx.

        With `low_memory`, the weights stay in their file, which the system may drop from memory, and are not rearranged
        for the CPU: opened at once, and slower for it.

        Raises:
            BundleError: If the file is damaged, or is not what the manifest says.
            BackendError: If ONNX Runtime cannot run it here.
            MissingExtra: If ONNX Runtime is not installed.
        """
        onnxruntime = import_onnxruntime()
        self.spec = spec
        self._new_run_options = onnxruntime.RunOptions
        with blaming_file(BundleError, path, "Convert the checkpoint again."):
            new_settings = partial(_settings, options, onnxruntime)
            opened = open_session(path, new_settings, options.vision_provider)
            self._session: Any = opened.session
            self._check_signature(path)
            self.provider, self.on_gpu = opened.provider, opened.on_gpu
            if options.vision_provider == "auto" and opened.provider != "cpu" and (reason := self._fault_of_gpu()):
                opened = open_session(path, new_settings, "cpu")
                self._session, self.provider, self.on_gpu = opened.session, opened.provider, opened.on_gpu
                warn_of_provider("CUDA", f"starts and cannot compute: {reason}")

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

    def _fault_of_gpu(self) -> str:
        """Why it cannot encode a first image, which the CPU does then: no kernels for it, or little memory; else ""."""
        size = self.spec.image_size
        try:
            self(np.zeros((1, 3, size, size), np.float32))
        except BackendError as error:
            return shorten_reason(error.__cause__ or error)
        return ""

    def _run(
        self, names: list[str], pixels: NDArray[np.float32], cancel: threading.Event | None
    ) -> list[NDArray[np.float32]]:
        """Runs the session, on a CPU on a thread of its own.

        Like ggml, ONNX Runtime sets up the AMX unit of the thread that it computes on. ggml does that only once, and
        would go on with the other's settings: to wrong numbers. On a GPU, a new thread would need a context of its own.
        """
        run_options = self._new_run_options()
        run_options.log_severity_level = SILENT
        with nullcontext() if cancel is None else _terminating(run_options, cancel):
            try:
                run = partial(self._session.run, names, {"pixel_values": pixels}, run_options)
                return run() if self.on_gpu else run_aside(run)
            except session_errors() as error:
                if cancel is not None and cancel.is_set():
                    raise Cancelled from error
                raise BackendError(f"ONNX Runtime could not encode the image: {error}{self._advice(error)}") from error

    def _advice(self, error: Exception) -> str:
        if is_out_of_memory(error):
            return ". Close other programs, or use --low-memory."
        return ". `edge-llava doctor` says more; --provider cpu does without." if self.provider != "cpu" else ""

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


def _settings(options: EngineOptions, onnxruntime: Any) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = usable_threads(options.n_vision_threads)
    settings.log_severity_level = SILENT
    if not options.vision_spinning:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.low_memory:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file is called
    return settings


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
