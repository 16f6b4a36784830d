"""Images that show a tower how large its activations become: a built-in set, or the user's own.

It uses the runtime to open image files, so that they are read as they are in a chat.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edge_llava.converters.dialogue import choose_evenly
from edge_llava.errors import ImageError
from edge_llava.home.image_files.formats import SUFFIXES
from edge_llava.scenes.drawing import draw_scene
from edge_llava.scenes.scene import sample_scenes

MAX_IMAGES = 64  # of the user's own; more add little and take time
_SIDE = 448  # pixels


def builtin_images() -> Iterator[NDArray[np.uint8]]:
    """Yields fourteen images uint8 (H, W, 3), always the same: drawn scenes, landscapes, textures, a page, noise."""
    for scene in itertools.islice(sample_scenes("train", seed=7), 4):
        yield np.asarray(draw_scene(scene, _SIDE))
    for seed in range(4):
        yield _landscape(np.random.default_rng([seed, 1]))
    for seed in range(2):
        random = np.random.default_rng([seed, 2])
        yield _bytes(np.stack([_clouds(random, _SIDE, _SIDE, roughness=0.5 + seed) for _ in range(3)], -1))
    yield _page(np.random.default_rng([0, 3]))
    random = np.random.default_rng([0, 4])
    yield random.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    across = np.linspace(0, 1, _SIDE)
    yield _bytes(
        np.stack([across[None] * across[:, None], np.tile(across, (_SIDE, 1)), 1 - across[:, None] + 0 * across], -1)
    )
    yield (24 + random.integers(0, 6, (_SIDE, _SIDE, 3))).astype(np.uint8)  # as with the lens cap on


def list_images(directory: Path) -> list[Path]:
    """Lists a directory's image files by name; of more than MAX_IMAGES, an evenly spaced choice.

    Raises:
        ImageError: If it contains none.
    """
    is_directory = os.path.isdir(directory)  # pathlib's own raises where a name is too long
    entries = directory.iterdir() if is_directory else ()
    found = sorted(path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if not found:
        raise ImageError(f"{directory} contains no images to measure with. Name a directory of JPEG or PNG files.")
    return choose_evenly(found, MAX_IMAGES)


def read_images(paths: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """Yields images uint8 (H, W, 3), one at a time, read as in a chat.

    Raises:
        ImageError: If one cannot be read.
    """
    from edge_llava.home.image_files.opening import open_image

    for path in paths:
        yield np.asarray(open_image(path))


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scales 0..1 to 0..255."""
    result: NDArray[np.uint8] = (255 * values).clip(0, 255).astype(np.uint8)
    return result


def _clouds(random: np.random.Generator, height: int, width: int, roughness: float) -> NDArray[np.float64]:
    """Makes noise (height, width), 0..1, whose larger waves are stronger, as in photographs: octaves that fade.

    Args:
        random: Source of the noise.
        height, width: In pixels.
        roughness: Strength of an octave relative to the one before, from 0.
    """
    total = np.zeros((height, width))
    for octave in range(7):
        cells = random.random((2 + 2**octave, 2 + 2**octave)).astype(np.float32)
        waves = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC), np.float64)
        total += roughness**octave * waves
    total -= total.min()
    scaled: NDArray[np.float64] = total / total.max()
    return scaled


def _landscape(random: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a fading sky with clouds over ranges of hills that darken towards the viewer."""
    height, width = int(random.integers(280, 420)), int(random.integers(360, 560))
    ys = np.linspace(0, 1, height)[:, None]
    light, far = random.uniform(0.5, 1.0, 3), random.uniform(0.2, 0.9, 3)
    cover = _clouds(random, height, width, 0.55)[..., None] ** 2
    image = (light + (far - light) * ys[..., None]) * (1 - cover) + cover
    for horizon in (0.45, 0.6, 0.78):
        skyline = horizon + 0.25 * (_clouds(random, 1, width, 0.5)[0] - 0.5)
        colour = random.uniform(0.05, 0.8, 3) * (1.2 - horizon)
        ground = colour * (0.5 + _clouds(random, height, width, 0.75)[..., None])
        image = np.where((ys > skyline)[..., None], ground, image)
    return _bytes(image + random.normal(0, 0.015, image.shape))


def _page(random: np.random.Generator) -> NDArray[np.uint8]:
    """Draws lines of words and a bar chart, dark on light."""
    image = Image.new("RGB", (_SIDE, 600), (250, 248, 244))
    drawing = ImageDraw.Draw(image)
    for line in range(22):
        words = " ".join("".join(map(chr, random.integers(97, 123, random.integers(2, 10)))) for _ in range(9))
        drawing.text((24, 20 + 16 * line), words, fill=(20, 20, 30))
    for bar in range(8):
        top = int(random.integers(400, 560))
        colour = tuple(int(value) for value in random.integers(0, 200, 3))
        drawing.rectangle((40 + 48 * bar, top, 72 + 48 * bar, 580), fill=colour)
    return np.asarray(image)
