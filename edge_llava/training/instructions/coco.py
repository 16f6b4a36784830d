"""Reads COCO's captions and instances files: images by number, boxes in pixels.

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
from edge_llava.home.json_files import is_id, is_text, read_json
from edge_llava.training.instructions.annotation import AnnotatedImage, Box, find_missing, parse_numbers

_SLACK = 1.0  # pixels by which a box may exceed its image, as published ones do by rounding; it is clipped


@dataclass
class _Draft:
    """One image while its parts are collected. Width and height in pixels."""

    file_name: str
    width: float
    height: float
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    n_faults: int = 0


def read_coco(captions: Path, instances: Path | None, images: Path | None, faults: list[str]) -> list[AnnotatedImage]:
    """Reads images in the order of the captions file, boxes in the order of the instances file.

    Args:
        captions: Captions JSON.
        instances: Instances JSON; None for images without boxes.
        images: Directory in which every image must exist; None leaves that unchecked.
        faults: Receives what is wrong, by image or annotation id.

    Returns:
        The images without faults.

    Raises:
        DataError: If a file cannot be read or is not in COCO's format.
    """
    file = _open(captions, ("images", "annotations"))
    drafts = _read_images(captions.name, file["images"], faults)
    for place, record in _records(captions.name, "annotation", file["annotations"], faults):
        _add_caption(drafts, place, record, faults)
    if instances is not None:
        _add_boxes(drafts, instances, faults)
    for identity, draft in drafts.items():
        own = [] if images is None else find_missing(images, draft.file_name)
        if not draft.captions and not draft.n_faults:
            own.append("it has no caption")
        draft.n_faults += len(own)
        faults += [f"{captions.name}: image {identity}: {fault}" for fault in own]
    return [
        AnnotatedImage(identity, draft.file_name, tuple(draft.captions), tuple(draft.boxes))
        for identity, draft in drafts.items()
        if not draft.n_faults
    ]


def _open(path: Path, keys: tuple[str, ...]) -> dict[str, list[Any]]:
    file = read_json(path)
    if not isinstance(file, dict) or not all(isinstance(file.get(key), list) for key in keys):
        lists = ", ".join(f"`{key}`" for key in keys)
        raise DataError(f"{path} is not a COCO file with lists {lists}. Name a file with one image per line *.jsonl.")
    return file


def _records(file: str, what: str, values: list[Any], faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each record with its place; a record without an id is named by its index, from 0."""
    for index, value in enumerate(values):
        if isinstance(value, dict) and is_id(value.get("id")):
            yield f"{file}: {what} {value['id']}", value
        else:
            faults.append(f"{file}: {what} without a valid id at index {index}")


def _read_images(file: str, values: list[Any], faults: list[str]) -> dict[str, _Draft]:
    drafts: dict[str, _Draft] = {}
    for place, record in _records(file, "image", values, faults):
        name, sides = record.get("file_name"), [record.get("width"), record.get("height")]
        numbers = parse_numbers([*sides, 1, 1])
        own = [] if is_text(name) else ["file_name is missing or not a string"]
        if numbers is None or min(numbers) <= 0:
            own.append("width or height is missing or not a positive number")
        identity = str(record["id"])
        if identity in drafts:
            own.append("its id is already used by another image")
            drafts[identity].n_faults += 1
        faults += [f"{place}: {fault}" for fault in own]
        width, height = numbers[:2] if numbers else (1.0, 1.0)
        drafts.setdefault(identity, _Draft(str(name), width, height, n_faults=len(own)))
    return drafts


def _add_caption(drafts: dict[str, _Draft], place: str, record: dict[str, Any], faults: list[str]) -> None:
    draft = drafts.get(str(record.get("image_id")))
    if draft is None:
        faults.append(f"{place}: there is no image {record.get('image_id')!r}")
    elif not is_text(record.get("caption")):
        faults.append(f"{place}: caption is missing or not a string")
        draft.n_faults += 1
    else:
        draft.captions.append(record["caption"])


def _add_boxes(drafts: dict[str, _Draft], path: Path, faults: list[str]) -> None:
    file = _open(path, ("images", "annotations", "categories"))
    categories = {
        str(record["id"]): record.get("name")
        for _, record in _records(path.name, "category", file["categories"], faults)
    }
    # images with boxes but no captions are not used, and not a fault
    known = {str(record["id"]) for _, record in _records(path.name, "image", file["images"], faults)} | set(drafts)
    for place, record in _records(path.name, "annotation", file["annotations"], faults):
        identity = str(record.get("image_id"))
        if identity not in known:
            faults.append(f"{place}: there is no image {record.get('image_id')!r}")
        elif identity in drafts:
            draft = drafts[identity]
            own: list[str] = []
            box = _parse_box(categories, draft, record, own)
            draft.boxes.append(box)
            draft.n_faults += len(own)
            faults += [f"{place}: {fault}" for fault in own]


def _parse_box(categories: dict[str, Any], draft: _Draft, record: dict[str, Any], faults: list[str]) -> Box:
    category, numbers = categories.get(str(record.get("category_id"))), parse_numbers(record.get("bbox"))
    if not is_text(category):
        faults.append(f"there is no category {record.get('category_id')!r}")
    if numbers is None:
        faults.append("bbox is missing or not a list of four numbers")
        numbers = (0.0, 0.0, 1.0, 1.0)
    x, y, width, height = numbers
    left, right = (min(1.0, max(0.0, value / draft.width)) for value in (x, x + width))
    top, bottom = (min(1.0, max(0.0, value / draft.height)) for value in (y, y + height))
    stands_out = min(x, y) < -_SLACK or x + width > draft.width + _SLACK or y + height > draft.height + _SLACK
    shown = f"bbox [{x:.6g}, {y:.6g}, {width:.6g}, {height:.6g}]"
    if width <= 0 or height <= 0:
        faults.append(f"{shown} is empty: x, y, width, height in pixels")
    elif stands_out or left >= right or top >= bottom:
        faults.append(f"{shown} lies outside its image of {draft.width:.6g} x {draft.height:.6g} pixels")
    return Box(str(category), left, top, right, bottom)
