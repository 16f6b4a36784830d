"""COCO's captions and instances files: pictures by number, boxes in pixels.

captions:   {"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id", "image_id", "caption"}]}
instances:  {"images": [...], "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height]}],
             "categories": [{"id", "name"}]}

Source: cocodataset.org, "Data format".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.training.instructions.annotation import AnnotatedPicture, Box, find_missing, parse_numbers
from edge_llava.training.instructions.json_files import is_id, is_text, read_json

_SLACK = 1.0  # pixels that a box may stand out, as published ones do by rounding; it is clipped


@dataclass
class _Picture:
    """One picture while it is put together. Width and height in pixels."""

    file_name: str
    width: float
    height: float
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    n_faults: int = 0


def read_coco(captions: Path, instances: Path | None, images: Path | None, faults: list[str]) -> list[AnnotatedPicture]:
    """Reads pictures in the order of the captions file, boxes in the order of the instances file.

    Args:
        captions: Captions JSON.
        instances: Instances JSON; None for pictures without boxes.
        images: Directory in which every picture must exist; None leaves that unchecked.
        faults: What is wrong is noted here, by picture or annotation id.

    Returns:
        The pictures without faults.

    Raises:
        DataError: If a file cannot be read or is not COCO's.
    """
    file = _open(captions, ("images", "annotations"))
    pictures = _read_images(captions.name, file["images"], faults)
    for place, record in _records(captions.name, "annotation", file["annotations"], faults):
        _add_caption(pictures, place, record, faults)
    if instances is not None:
        _add_boxes(pictures, instances, faults)
    for identity, picture in pictures.items():
        own = [] if images is None else find_missing(images, picture.file_name)
        if not picture.captions and not picture.n_faults:
            own.append("it has no caption")
        picture.n_faults += len(own)
        faults += [f"{captions.name}: image {identity}: {fault}" for fault in own]
    return [
        AnnotatedPicture(identity, picture.file_name, tuple(picture.captions), tuple(picture.boxes))
        for identity, picture in pictures.items()
        if not picture.n_faults
    ]


def _open(path: Path, keys: tuple[str, ...]) -> dict[str, list[Any]]:
    file = read_json(path)
    if not isinstance(file, dict) or not all(isinstance(file.get(key), list) for key in keys):
        lists = ", ".join(f"`{key}`" for key in keys)
        raise DataError(f"{path} is no COCO file with lists {lists}. One picture a line is read from a file *.jsonl.")
    return file


def _records(file: str, what: str, values: list[Any], faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each record stands, and the record; what has no id is named by its index, from 0."""
    for index, value in enumerate(values):
        if isinstance(value, dict) and is_id(value.get("id")):
            yield f"{file}: {what} {value['id']}", value
        else:
            faults.append(f"{file}: {what} without a valid id at index {index}")


def _read_images(file: str, values: list[Any], faults: list[str]) -> dict[str, _Picture]:
    pictures: dict[str, _Picture] = {}
    for place, record in _records(file, "image", values, faults):
        name, sides = record.get("file_name"), [record.get("width"), record.get("height")]
        numbers = parse_numbers([*sides, 1, 1])
        own = [] if is_text(name) else ["file_name is missing or no text"]
        if numbers is None or min(numbers) <= 0:
            own.append("width or height is missing or no number above 0")
        identity = str(record["id"])
        if identity in pictures:
            own.append("its id is that of another image")
            pictures[identity].n_faults += 1
        faults += [f"{place}: {fault}" for fault in own]
        width, height = numbers[:2] if numbers else (1.0, 1.0)
        pictures.setdefault(identity, _Picture(str(name), width, height, n_faults=len(own)))
    return pictures


def _add_caption(pictures: dict[str, _Picture], place: str, record: dict[str, Any], faults: list[str]) -> None:
    picture = pictures.get(str(record.get("image_id")))
    if picture is None:
        faults.append(f"{place}: there is no image {record.get('image_id')!r}")
    elif not is_text(record.get("caption")):
        faults.append(f"{place}: caption is missing or no text")
        picture.n_faults += 1
    else:
        picture.captions.append(record["caption"])


def _add_boxes(pictures: dict[str, _Picture], path: Path, faults: list[str]) -> None:
    file = _open(path, ("images", "annotations", "categories"))
    categories = {
        str(record["id"]): record.get("name")
        for _, record in _records(path.name, "category", file["categories"], faults)
    }
    # pictures that have boxes and no captions are none of ours, and no fault
    known = {str(record["id"]) for _, record in _records(path.name, "image", file["images"], faults)} | set(pictures)
    for place, record in _records(path.name, "annotation", file["annotations"], faults):
        identity = str(record.get("image_id"))
        if identity not in known:
            faults.append(f"{place}: there is no image {record.get('image_id')!r}")
        elif identity in pictures:
            picture = pictures[identity]
            own: list[str] = []
            box = _parse_box(categories, picture, record, own)
            picture.boxes.append(box)
            picture.n_faults += len(own)
            faults += [f"{place}: {fault}" for fault in own]


def _parse_box(categories: dict[str, Any], picture: _Picture, record: dict[str, Any], faults: list[str]) -> Box:
    category, numbers = categories.get(str(record.get("category_id"))), parse_numbers(record.get("bbox"))
    if not is_text(category):
        faults.append(f"there is no category {record.get('category_id')!r}")
    if numbers is None:
        faults.append("bbox is missing or no list of four numbers")
        numbers = (0.0, 0.0, 1.0, 1.0)
    x, y, width, height = numbers
    left, right = (min(1.0, max(0.0, value / picture.width)) for value in (x, x + width))
    top, bottom = (min(1.0, max(0.0, value / picture.height)) for value in (y, y + height))
    stands_out = min(x, y) < -_SLACK or x + width > picture.width + _SLACK or y + height > picture.height + _SLACK
    shown = f"bbox [{x:.6g}, {y:.6g}, {width:.6g}, {height:.6g}]"
    if width <= 0 or height <= 0:
        faults.append(f"{shown} is empty: x, y, width, height in pixels")
    elif stands_out or left >= right or top >= bottom:
        faults.append(f"{shown} lies outside its image of {picture.width:.6g} x {picture.height:.6g} pixels")
    return Box(str(category), left, top, right, bottom)
