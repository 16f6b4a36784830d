"""Scene: one to five coloured shapes on a background, sampled from a seed. Coordinates are fractions of the side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
SIZES = ("small", "large")
MAX_OBJECTS = 5
MIN_OFFSET = 0.12  # of the side: closer objects are not clearly left of, or above, one another

Split = Literal["train", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "held-out")

# Radius of the circle around an object. The gap between the two keeps "small" and "large" apart.
_RADII = {"small": (0.09, 0.115), "large": (0.155, 0.19)}
_MARGIN = 0.01  # between an object's circle and the border
_MIN_DISTANCE = 0.95  # of two centres, in sums of their radii: circles may overlap a little
_REPEAT = 0.45  # chance that an object takes its shape, or its colour, from one before it
_TRIES = 60  # places to try before giving up on a crowded scene
_HELD_OUT_SHARE = 10  # one scene in ten


@dataclass(frozen=True)
class SceneObject:
    """An object in a scene.

    Attributes:
        shape: One of SHAPES.
        colour: One of COLOURS.
        size: One of SIZES.
        x: Centre, from the left border, 0..1.
        y: Centre, from the upper border, 0..1.
        radius: Radius of the circle around the shape, in fractions of the side.
        angle: Rotation in radians, counter-clockwise.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def phrase(self) -> str:
        """Its description without its place: "large red circle"."""
        return f"{self.size} {self.colour} {self.shape}"

    def outline(self) -> np.ndarray:
        """Corners, float64 (n, 2) as x, y; a circle or ring as a polygon of 48 corners."""
        points = _UNIT_OUTLINES[self.shape]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.array([[cos, -sin], [sin, cos]])
        outline: np.ndarray = turned * self.radius + np.array([self.x, self.y])
        return outline

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of its outline, clipped to the picture."""
        outline = self.outline().clip(0.0, 1.0)
        left, top = outline.min(axis=0)
        right, bottom = outline.max(axis=0)
        return float(left), float(top), float(right), float(bottom)


@dataclass(frozen=True)
class Scene:
    """The content of a picture, and the seed of its light, texture and compression.

    Attributes:
        seed: Seed of everything about it.
        objects: One to MAX_OBJECTS; later ones are drawn over earlier ones.
    """

    seed: int
    objects: tuple[SceneObject, ...]

    @property
    def split(self) -> Split:
        """The split that it belongs to. It depends on what is where (to an eighth of the side), not on the seed: scenes
        that look alike are never in different splits."""
        facts = sorted(f"{thing.phrase} {int(thing.x * 8)} {int(thing.y * 8)}" for thing in self.objects)
        digest = hashlib.sha256("\n".join(facts).encode()).digest()
        return "held-out" if digest[0] % _HELD_OUT_SHARE == 0 else "train"


def sample_scenes(split: Split, seed: int) -> Iterator[Scene]:
    """Yields an endless sequence of scenes of one split; equal seeds give equal sequences."""
    start = seed << 32
    index = 0
    while True:
        scene = sample_scene(start + index)
        if scene.split == split:
            yield scene
        index += 1


def sample_scene(seed: int) -> Scene:
    """The scene of a seed; it may belong to either split.

    Args:
        seed: Any integer from 0.
    """
    random = np.random.default_rng([seed, 1])
    n_objects = int(random.integers(1, MAX_OBJECTS + 1))
    while True:
        objects: list[SceneObject] = []
        for _ in range(n_objects):
            thing = _place(random, objects)
            if thing is None:
                break
            objects.append(thing)
        else:
            return Scene(seed, tuple(objects))


def _place(random: np.random.Generator, others: list[SceneObject]) -> SceneObject | None:
    shape, colour = _choose(random, SHAPES), _choose(random, COLOURS)
    if others and random.random() < _REPEAT:
        shape = others[random.integers(len(others))].shape
    if others and random.random() < _REPEAT:
        colour = others[random.integers(len(others))].colour
    for _ in range(_TRIES):
        size = _choose(random, SIZES)
        radius = float(random.uniform(*_RADII[size]))
        x, y = (float(value) for value in random.uniform(radius + _MARGIN, 1 - radius - _MARGIN, 2))
        if all(np.hypot(x - o.x, y - o.y) >= _MIN_DISTANCE * (radius + o.radius) for o in others):
            angle = float(random.uniform(0, 2 * np.pi))
            return SceneObject(shape, colour, size, x, y, radius, angle)
    return None


def _choose(random: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[random.integers(len(values))]


def _regular(n_corners: int) -> np.ndarray:
    angles = np.arange(n_corners) * 2 * np.pi / n_corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    points = _regular(10)
    points[1::2] *= 0.45
    return points


def _cross(arm: float = 0.32) -> np.ndarray:
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    corners = [quarter]
    for _ in range(3):
        corners.append(corners[-1] @ turn)
    points: np.ndarray = np.concatenate(corners) / np.hypot(1.0, arm)
    return points


_UNIT_OUTLINES = {
    "circle": _regular(48),
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _star(),
    "cross": _cross(),
    "ring": _regular(48),
}
