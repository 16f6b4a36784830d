"""Reading annotated pictures: our own JSONL, or COCO's two files.

Our own JSONL, one picture a line; boxes are left, top, right, bottom in fractions of width and height:

    {"id": "33471", "image": "bus.jpg", "captions": ["A red bus.", ...],
     "boxes": [{"category": "bus", "box": [0.1, 0.25, 0.9, 0.8]}]}

A line of `edge-llava data scenes` has also "scene": the facts, see `scene_facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.training.instructions.annotation import (
    AnnotatedPicture,
    Annotations,
    Box,
    find_missing,
    parse_numbers,
)
from edge_llava.training.instructions.coco import read_coco
from edge_llava.training.instructions.json_files import is_id, is_text, read_json_lines, refuse
from edge_llava.training.instructions.scene_facts import parse_scene


def read_annotations(
    path: Path, images: Path | None = None, instances: Path | None = None, *, skip_faulty: bool = False
) -> Annotations:
    """Reads annotated pictures.

    Args:
        path: Our own JSONL if its name ends with ".jsonl", else COCO's captions JSON.
        images: Directory in which every picture must exist. None is the directory of a JSONL; the pictures of COCO
            are not looked for then.
        instances: COCO's instances JSON, for the boxes.
        skip_faulty: Leaves pictures with faults out instead of refusing the file.

    Raises:
        DataError: If the file cannot be read, holds no picture, or any picture has a fault: all faults are told.
    """
    faults: list[str] = []
    if path.suffix.lower() == ".jsonl":
        if instances is not None:
            raise DataError(f"{path} holds its own boxes; an instances file goes with COCO captions only.")
        pictures = _read_lines(path, images or path.parent, faults)
    else:
        pictures = read_coco(path, instances, images, faults)
    if faults and not skip_faulty:
        advice = "Correct them, or leave these pictures out with --skip-faulty."
        raise refuse(f"{path} holds annotations that cannot be used:", faults, advice)
    if not pictures:
        raise refuse(f"{path} holds no picture that can be used.", faults, "")
    return Annotations(tuple(pictures), tuple(faults))


def _read_lines(path: Path, images: Path, faults: list[str]) -> list[AnnotatedPicture]:
    pictures = []
    lines: dict[str, int] = {}
    for number, record in read_json_lines(path, faults):
        own: list[str] = []
        picture = _parse(record, own)
        if not own:
            own = find_missing(images, picture.image)
            if picture.id in lines:
                own.append(f"id {picture.id!r} is that of line {lines[picture.id]} already")
            lines.setdefault(picture.id, number)
        faults += [f"line {number}: {fault}" for fault in own]
        if not own:
            pictures.append(picture)
    return pictures


def _parse(record: dict[str, Any], faults: list[str]) -> AnnotatedPicture:
    identity, image, captions, boxes = (record.get(key) for key in ("id", "image", "captions", "boxes"))
    if not is_id(identity):
        faults.append("id is missing or no text")
    if not is_text(image):
        faults.append("image is missing or no path")
    if not isinstance(captions, list) or not captions or not all(map(is_text, captions)):
        faults.append("captions is missing or no list of texts")
        captions = []
    if not isinstance(boxes, list):
        faults.append("boxes is missing or no list")
        boxes = []
    parsed = [_parse_box(box, f"boxes[{index}]", faults) for index, box in enumerate(boxes)]
    scene = None
    if "scene" in record:
        scene = parse_scene(record["scene"], faults)
    return AnnotatedPicture(str(identity), str(image), tuple(captions), tuple(parsed), scene)


def _parse_box(value: Any, place: str, faults: list[str]) -> Box:
    value = value if isinstance(value, dict) else {}
    category, corners = value.get("category"), parse_numbers(value.get("box"))
    if not is_text(category):
        faults.append(f"{place}.category is missing or no text")
    if corners is None:
        faults.append(f"{place}.box is missing or no list of four numbers")
        corners = (0.0, 0.0, 1.0, 1.0)
    left, top, right, bottom = corners
    if not all(0 <= corner <= 1 for corner in corners):
        faults.append(f"{place}.box {_shown(corners)} lies outside its picture: 0 to 1, fractions of width and height")
    elif left >= right or top >= bottom:
        faults.append(f"{place}.box {_shown(corners)} is empty or inverted: left, top, right, bottom")
    return Box(str(category), left, top, right, bottom)


def _shown(numbers: Sequence[float]) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in numbers) + "]"
