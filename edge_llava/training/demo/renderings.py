"""Scenes drawn ahead of training, by all cores, into one file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.scenes.drawing import draw_scene
from edge_llava.scenes.scene import Scene


def render(scenes: Sequence[Scene], size: int, path: Path, progress: ProgressCallback = silent) -> np.ndarray:
    """Draws scenes at their usual size and scales them down as CLIP's preprocessing does.

    Args:
        scenes: What to draw.
        size: Pixels of a side of the result.
        path: File of the result; read, not drawn again, where it exists.
        progress: Told pictures.

    Returns:
        uint8 (N, size, size, 3), mapped from the file.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(".partial")
        shape = (len(scenes), size, size, 3)
        pixels = np.lib.format.open_memmap(partial_path, "w+", np.uint8, shape)
        # spawned, not forked: torch's threads do not survive a fork
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            for index, picture in enumerate(pool.map(partial(_draw, size), scenes, chunksize=64)):
                pixels[index] = picture
                progress(ProgressEvent("drawing scenes", index + 1, len(scenes), "items"))
        pixels.flush()
        partial_path.replace(path)
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def _draw(size: int, scene: Scene) -> np.ndarray:
    return np.asarray(draw_scene(scene).resize((size, size), Image.Resampling.BICUBIC))
