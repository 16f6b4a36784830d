"""Reads annotated images from our own JSONL, or from COCO's two files.

Our own JSONL has one image per line; boxes are left, top, right, bottom in fractions of width and height:

    {"id": "33471", "image": "bus.jpg", "captions": ["A red bus.", ...],
     "boxes": [{"category": "bus", "box": [0.1, 0.25, 0.9, 0.8]}]}

A line written by `edge-llava data scenes` also has "scene", its facts; see `scene_facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.home.json_files import is_id, is_text, read_json_lines, refuse
from edge_llava.training.instructions.annotation import (
    AnnotatedImage,
    Annotations,
    Box,
    find_missing,
    parse_numbers,
)
from edge_llava.training.instructions.coco import read_coco
from edge_llava.training.instructions.scene_facts import parse_scene


def read_annotations(
    path: Path, images: Path | None = None, instances: Path | None = None, *, skip_faulty: bool = False
) -> Annotations:
    """Reads annotated images.

    Args:
        path: Our own JSONL if its name ends with ".jsonl", else COCO's captions JSON.
        images: Directory in which every image must exist. None means the directory of a JSONL file; COCO's images are
            not checked then.
        instances: COCO's instances JSON, for the boxes.
        skip_faulty: Leave out images with faults instead of refusing the file.

    Raises:
        DataError: If the file cannot be read, contains no images, or any image has a fault; all faults at once.
    """
    faults: list[str] = []
    if path.suffix.lower() == ".jsonl":
        if instances is not None:
            raise DataError(f"{path} contains its own boxes; an instances file goes with COCO captions only.")
        annotated = _read_lines(path, images or path.parent, faults)
    else:
        annotated = read_coco(path, instances, images, faults)
    if faults and not skip_faulty:
        advice = "Correct them, or leave these images out with --skip-faulty."
        raise refuse(f"{path} contains annotations that cannot be used:", faults, advice)
    if not annotated:
        raise refuse(f"{path} contains no usable images.", faults, "")
    return Annotations(tuple(annotated), tuple(faults))


def _read_lines(path: Path, images: Path, faults: list[str]) -> list[AnnotatedImage]:
    annotated = []
    lines: dict[str, int] = {}
    for number, record in read_json_lines(path, faults):
        own: list[str] = []
        image = _parse(record, own)
        if not own:
            own = find_missing(images, image.path)
            if image.id in lines:
                own.append(f"id {image.id!r} is already used by line {lines[image.id]}")
            lines.setdefault(image.id, number)
        faults += [f"line {number}: {fault}" for fault in own]
        if not own:
            annotated.append(image)
    return annotated


def _parse(record: dict[str, Any], faults: list[str]) -> AnnotatedImage:
    identity, image, captions, boxes = (record.get(key) for key in ("id", "image", "captions", "boxes"))
    if not is_id(identity):
        faults.append("id is missing or not a string")
    if not is_text(image):
        faults.append("image is missing or not a path")
    if not isinstance(captions, list) or not captions or not all(map(is_text, captions)):
        faults.append("captions is missing or not a list of strings")
        captions = []
    if not isinstance(boxes, list):
        faults.append("boxes is missing or not a list")
        boxes = []
    parsed = [_parse_box(box, f"boxes[{index}]", faults) for index, box in enumerate(boxes)]
    scene = None
    if "scene" in record:
        scene = parse_scene(record["scene"], faults)
    return AnnotatedImage(str(identity), str(image), tuple(captions), tuple(parsed), scene)


def _parse_box(value: Any, place: str, faults: list[str]) -> Box:
    value = value if isinstance(value, dict) else {}
    category, corners = value.get("category"), parse_numbers(value.get("box"))
    if not is_text(category):
        faults.append(f"{place}.category is missing or not a string")
    if corners is None:
        faults.append(f"{place}.box is missing or not a list of four numbers")
        corners = (0.0, 0.0, 1.0, 1.0)
    left, top, right, bottom = corners
    if not all(0 <= corner <= 1 for corner in corners):
        faults.append(f"{place}.box {_shown(corners)} lies outside its image: 0 to 1, fractions of width and height")
    elif left >= right or top >= bottom:
        faults.append(f"{place}.box {_shown(corners)} is empty or inverted: left, top, right, bottom")
    return Box(str(category), left, top, right, bottom)


def _shown(numbers: Sequence[float]) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in numbers) + "]"
