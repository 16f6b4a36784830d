"""A worker of a Ray cluster: one process that holds the bundle and answers about images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_llava.captioning.asking import Asking, Said
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.prepared import Ready
from edge_llava.errors import BundleError, EdgeLlavaError
from edge_llava.runtime.vision.image import Image

if TYPE_CHECKING:
    from edge_llava.runtime.options import EngineOptions


@dataclass(frozen=True)
class Task:
    """What every worker must have.

    Attributes:
        bundle: Where the bundle lies, on every machine of the cluster.
        settings: `CaptionOptions.digest` of the bundle here; that of a worker must be the same.
        options: What is asked.
        engine: How the engines of a worker are opened.
    """

    bundle: Path
    settings: str
    options: CaptionOptions
    engine: EngineOptions


@dataclass(frozen=True)
class Failed:
    """An error of ours, which may have no form that can be sent."""

    kind: str
    message: str


class Worker:
    """An actor of Ray's. Its errors are replies, since Ray would wrap what is raised in its own words."""

    def __init__(self, task: Task) -> None:
        self._asking: Asking | None = None
        self._fault: Failed | None = None
        try:
            self._asking = self._open(task)
        except EdgeLlavaError as error:
            self._fault = Failed(type(error).__name__, str(error))

    @staticmethod
    def _open(task: Task) -> Asking:
        from edge_llava.bundle.bundle import open_bundle
        from edge_llava.runtime.model import load

        bundle = open_bundle(str(task.bundle))
        engine = task.engine
        settings = task.options.digest(bundle.manifest, engine.visual_tokens, engine.alpha, engine.max_tiles)
        if settings != task.settings:
            raise BundleError(f"{task.bundle} is another bundle there than here. Copy the same one to each machine.")
        return Asking(load(bundle, engine), task.options)

    def check(self) -> Failed | None:
        """Why the bundle cannot be opened; None if it is open."""
        return self._fault

    def answer(self, pixels: np.ndarray[Any, Any], sha256: str) -> Said | Failed:
        """Answers about one image, of shape (H, W, 3), uint8."""
        if self._asking is None:
            return self._fault or Failed("BackendError", "the worker has no bundle")
        try:
            return self._asking.ask(Ready(sha256, Image.open(pixels))).result()
        except EdgeLlavaError as error:
            return Failed(type(error).__name__, str(error))

    def process_id(self) -> int:
        """This process."""
        return os.getpid()
