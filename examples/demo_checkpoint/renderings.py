"""Renders scenes before training, on all cores, into one file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from edge_llava.home.files import atomic_file
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.scenes.drawing import draw_scene
from edge_llava.scenes.scene import Scene


def render(scenes: Sequence[Scene], size: int, path: Path, progress: ProgressCallback = silent) -> np.ndarray:
    """Draws scenes at their usual size and scales them down as CLIP's preprocessing does.

    Args:
        scenes: The scenes to draw.
        size: Side of the result in pixels.
        path: File of the result; if it exists, it is read and nothing is drawn.
        progress: Called with the number of pictures done.

    Returns:
        uint8 (N, size, size, 3), mapped from the file.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        shape, descr = (len(scenes), size, size, 3), np.lib.format.dtype_to_descr(np.dtype(np.uint8))
        # spawned, not forked: torch's threads do not survive a fork
        with atomic_file(path) as file, ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
            for index, picture in enumerate(pool.map(partial(_draw, size), scenes, chunksize=64)):
                file.write(picture.tobytes())
                progress(ProgressEvent("drawing scenes", index + 1, len(scenes), "items"))
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def _draw(size: int, scene: Scene) -> np.ndarray:
    return np.asarray(draw_scene(scene).resize((size, size), Image.Resampling.BICUBIC))
