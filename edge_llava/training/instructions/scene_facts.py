"""Reads and writes the facts of a drawn scene as JSON; a scene that is read equals the one that was written.

    {"seed": 7, "objects": [{"shape": "star", "colour": "red", "size": "small", "x": 0.31, "y": 0.72,
                             "radius": 0.1, "angle": 2.4}]}

Units are those of `edge_llava.scenes.scene`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from edge_llava.scenes.scene import COLOURS, MAX_OBJECTS, SHAPES, SIZES, Scene, SceneObject

_CHOICES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
_RANGES = {"x": 1.0, "y": 1.0, "radius": 0.5, "angle": 2 * math.pi}  # each from 0


def format_scene(scene: Scene) -> dict[str, Any]:
    """Returns the facts as a JSON value."""
    return {"seed": scene.seed, "objects": [dataclasses.asdict(thing) for thing in scene.objects]}


def parse_scene(record: Any, faults: list[str]) -> Scene | None:
    """Returns the scene that a JSON value describes.

    Args:
        record: The value.
        faults: Receives everything that is wrong.

    Returns:
        The scene, or None if anything is wrong.
    """
    record = record if isinstance(record, dict) else {}
    seed, things = record.get("seed"), record.get("objects")
    own = []
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        own.append("scene.seed is missing or not a number from 0")
    if not isinstance(things, list) or not 1 <= len(things) <= MAX_OBJECTS:
        own.append(f"scene.objects is missing or not a list of 1 to {MAX_OBJECTS}")
        things = []
    for index, thing in enumerate(things):
        own += [f"scene.objects[{index}].{fault}" for fault in _object_faults(thing)]
    faults += own
    return (
        None if own else Scene(seed, tuple(SceneObject(*(_value(thing, name) for name in _FIELDS)) for thing in things))
    )


_FIELDS = tuple(field.name for field in dataclasses.fields(SceneObject))


def _value(thing: dict[str, Any], name: str) -> Any:
    return thing[name] if name in _CHOICES else float(thing[name])


def _object_faults(thing: Any) -> list[str]:
    thing = thing if isinstance(thing, dict) else {}
    faults = [
        f"{name} is missing or not one of {', '.join(choices)}"
        for name, choices in _CHOICES.items()
        if thing.get(name) not in choices
    ]
    for name, high in _RANGES.items():
        value = thing.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= high:
            faults.append(f"{name} is missing or not a number from 0 to {high:.4g}")
    return faults
