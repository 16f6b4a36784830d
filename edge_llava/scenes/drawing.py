"""Draws a scene: background, shapes, light, noise and JPEG artefacts, all determined by the scene's seed."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from edge_llava.scenes.scene import Scene, SceneObject

SIDE = 224  # default, in pixels
RING_HOLE = 0.52  # of the radius

_HUES = {"red": 0.0, "yellow": 0.145, "green": 0.345, "cyan": 0.5, "blue": 0.635, "purple": 0.79}
_SUPERSAMPLING = 3


def draw_scene(scene: Scene, side: int = SIDE) -> Image.Image:
    """Draws a scene. The pixels depend only on the scene, the side, and the versions of numpy and Pillow.

    Args:
        scene: What to draw.
        side: Width and height in pixels, from 16.

    Returns:
        RGB picture, decoded from its JPEG file.
    """
    return Image.open(io.BytesIO(encode_scene(scene, side)), formats=("JPEG",)).convert("RGB")


def encode_scene(scene: Scene, side: int = SIDE) -> bytes:
    """Draws a scene and encodes it as a JPEG file."""
    random = np.random.default_rng([scene.seed, 2])
    canvas = _background(random, side)
    for thing in scene.objects:
        _paint(random, canvas, thing)
    canvas *= _light(random, side)[..., None]
    noise = random.uniform(1.0, 7.0) * random.standard_normal((side, side, 3), dtype=np.float32)
    picture = Image.fromarray((canvas + noise).clip(0, 255).astype(np.uint8))
    if random.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(side / 224 * random.uniform(0.3, 0.9)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(random.integers(60, 96)))
    return file.getvalue()


def draw_map(scene: Scene, side: int) -> np.ndarray:
    """Draws a map of which object is where.

    Returns:
        int64 (side, side): index of the object seen at each pixel, -1 for the background.
    """
    seen = np.full((side, side), -1)
    for index, thing in enumerate(scene.objects):
        mask, left, top = _mask(thing, side)
        region = seen[top : top + mask.shape[0], left : left + mask.shape[1]]
        region[mask >= 0.5] = index
    return seen


def _mask(thing: SceneObject, side: int) -> tuple[np.ndarray, int, int]:
    """Coverage float32 (h, w) in 0..1 of the part of the picture around the object, and that part's left and top."""
    reach = thing.radius * side + 2
    left, top = max(0, int(thing.x * side - reach)), max(0, int(thing.y * side - reach))
    right, bottom = min(side, int(thing.x * side + reach) + 1), min(side, int(thing.y * side + reach) + 1)
    size = (right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING
    image = Image.new("L", size)
    drawing = ImageDraw.Draw(image)
    corners = (thing.outline() * side - (left, top)) * _SUPERSAMPLING
    drawing.polygon([tuple(corner) for corner in corners.tolist()], fill=255)
    if thing.shape == "ring":
        x, y = ((thing.x * side - left) * _SUPERSAMPLING, (thing.y * side - top) * _SUPERSAMPLING)
        hole = thing.radius * side * _SUPERSAMPLING * RING_HOLE
        drawing.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    small = image.reduce(_SUPERSAMPLING)
    return np.asarray(small, np.float32) / 255, left, top


def _paint(random: np.random.Generator, canvas: np.ndarray, thing: SceneObject) -> None:
    side = len(canvas)
    mask, left, top = _mask(thing, side)
    height, width = mask.shape
    hue = (_HUES[thing.colour] + random.uniform(-0.02, 0.02)) % 1.0
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, random.uniform(0.72, 1.0), random.uniform(0.65, 1.0)), np.float32)
    # lit on one side and shaded on the other
    slope_x, slope_y = random.uniform(-0.18, 0.18, 2)
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    shade = 1 + slope_x * xs + slope_y * ys
    region = canvas[top : top + height, left : left + width]
    region[:] = region * (1 - mask[..., None]) + (shade[..., None] * colour) * mask[..., None]


def _background(random: np.random.Generator, side: int) -> np.ndarray:
    """float32 (side, side, 3), 0..255: a dull colour, plain or blended with a second one in one of four manners."""
    first, second = (_dull_colour(random) for _ in range(2))
    kind = random.integers(5)
    ys, xs = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    if kind == 0:
        blend: np.ndarray = np.zeros((side, side), np.float32)
    elif kind == 1:
        blend = _along(random, xs, ys)
    elif kind == 2:
        blend = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(2, 7) * _along(random, xs, ys))
    elif kind == 3:
        cells = random.uniform(3, 8)
        blend = ((np.floor(xs * cells) + np.floor(ys * cells)) % 2).astype(np.float32)
    else:
        blend = _clouds(random, side, 5)
    strength = random.uniform(0.3, 1.0)
    canvas: np.ndarray = first + (second - first) * (strength * blend)[..., None]
    return canvas * (1 + random.uniform(0.0, 0.12) * (_clouds(random, side, 12) - 0.5))[..., None]


def _dull_colour(random: np.random.Generator) -> np.ndarray:
    colour = colorsys.hsv_to_rgb(random.random(), random.uniform(0.0, 0.22), random.uniform(0.25, 0.9))
    return 255 * np.array(colour, np.float32)


def _along(random: np.random.Generator, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """A ramp of 0..1, about, in a random direction."""
    angle = random.uniform(0, 2 * np.pi)
    ramp: np.ndarray = 0.5 + (xs - 0.5) * np.float32(np.cos(angle)) + (ys - 0.5) * np.float32(np.sin(angle))
    return ramp


def _clouds(random: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth noise float32 (side, side), 0..1."""
    coarse = Image.fromarray((255 * random.random((cells, cells))).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255


def _light(random: np.random.Generator, side: int) -> np.ndarray:
    """float32 (side, side): brightness that falls from one side to the other."""
    ys, xs = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    light: np.ndarray = random.uniform(0.8, 1.1) + random.uniform(0.0, 0.3) * (_along(random, xs, ys) - 0.5)
    return light
