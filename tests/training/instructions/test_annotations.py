"""Annotated images from our JSONL and from COCO's files, and every fault with its place."""

from __future__ import annotations

import copy
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from edge_llava.errors import DataError
from edge_llava.scenes.scene import sample_scenes
from edge_llava.training.instructions.annotation import AnnotatedImage, Box
from edge_llava.training.instructions.annotation_files import read_annotations
from edge_llava.training.instructions.context import format_context
from edge_llava.training.instructions.scene_facts import format_scene, parse_scene

LINE: dict[str, Any] = {
    "id": "bus",
    "image": "images/bus.jpg",
    "captions": ["A red bus.", "A bus on a road."],
    "boxes": [{"category": "bus", "box": [0.1, 0.25, 0.9, 1]}],
}
CAPTIONS: dict[str, Any] = {
    "images": [
        {"id": 33471, "file_name": "000000033471.jpg", "width": 640, "height": 480},
        {"id": 9, "file_name": "9.jpg", "width": 100, "height": 50},
    ],
    "annotations": [
        {"id": 1, "image_id": 33471, "caption": "A bus."},
        {"id": 2, "image_id": 9, "caption": "A cat."},
        {"id": 3, "image_id": 33471, "caption": "A red bus.\n"},
    ],
}
INSTANCES: dict[str, Any] = {
    "images": [*CAPTIONS["images"], {"id": 10, "file_name": "10.jpg", "width": 5, "height": 5}],
    "annotations": [
        {"id": 71, "image_id": 33471, "category_id": 6, "bbox": [64.0, 120, 320, 240.5], "iscrowd": 0},
        {"id": 72, "image_id": 10, "category_id": 6, "bbox": [1, 1, 2, 2]},
        {"id": 73, "image_id": 33471, "category_id": 17, "bbox": [0, 0, 640.5, 480]},
    ],
    "categories": [{"id": 6, "name": "bus"}, {"id": 17, "name": "cat"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("bus.jpg", "000000033471.jpg", "9.jpg"):
        (tmp_path / "images" / name).touch()
    return tmp_path


def save_lines(folder: Path, *records: Any) -> Path:
    path = folder / "annotations.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def save(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def refuse(*arguments: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_annotations(*arguments)
    return str(caught.value).splitlines()


def test_lines(folder: Path) -> None:
    found = read_annotations(save_lines(folder, LINE, LINE | {"id": 7, "boxes": [], "extra": 1}))
    assert found.faults == ()
    assert found.images == (
        AnnotatedImage("bus", "images/bus.jpg", ("A red bus.", "A bus on a road."), (Box("bus", 0.1, 0.25, 0.9, 1.0),)),
        AnnotatedImage("7", "images/bus.jpg", ("A red bus.", "A bus on a road."), ()),
    )


def test_images_elsewhere(folder: Path) -> None:
    path = save_lines(folder, LINE | {"image": "bus.jpg"})
    assert refuse(path)[1] == f"  - line 1: image {folder}/bus.jpg is missing"
    assert read_annotations(path, folder / "images").images[0].path == "bus.jpg"


def box(*corners: Any, category: Any = "bus") -> dict[str, Any]:
    return {"boxes": [{"category": category, "box": list(corners)}]}


OUTSIDE = "lies outside its image: 0 to 1, fractions of width and height"
INVERTED = "is empty or inverted: left, top, right, bottom"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": None}, "id is missing or not a string"),
        ({"id": " "}, "id is missing or not a string"),
        ({"image": 3}, "image is missing or not a path"),
        ({"captions": "A bus."}, "captions is missing or not a list of strings"),
        ({"captions": []}, "captions is missing or not a list of strings"),
        ({"captions": ["A bus.", ""]}, "captions is missing or not a list of strings"),
        ({"captions": ["\ud800"]}, "captions is missing or not a list of strings"),
        ({"boxes": None}, "boxes is missing or not a list"),
        (
            {"boxes": ["bus"]},
            "boxes[0].category is missing or not a string; boxes[0].box is missing or not a list of four numbers",
        ),
        (box(0, 0, 1, 1, category=""), "boxes[0].category is missing or not a string"),
        (box(0, 0, 1), "boxes[0].box is missing or not a list of four numbers"),
        (box(0, 0, 1, "1"), "boxes[0].box is missing or not a list of four numbers"),
        (box(0, 0, 1, True), "boxes[0].box is missing or not a list of four numbers"),
        (box(0, 0, 1, float("nan")), "boxes[0].box is missing or not a list of four numbers"),
        (box(0, 0, float("inf"), 1), "boxes[0].box is missing or not a list of four numbers"),
        (box(0, 0, 10**400, 1), "boxes[0].box is missing or not a list of four numbers"),
        (box(34, 50, 120, 200), f"boxes[0].box [34, 50, 120, 200] {OUTSIDE}"),
        (box(-0.01, 0, 1, 1), f"boxes[0].box [-0.01, 0, 1, 1] {OUTSIDE}"),
        (box(0.5, 0, 0.4, 1), f"boxes[0].box [0.5, 0, 0.4, 1] {INVERTED}"),
        (box(0, 0.7, 1, 0.7), f"boxes[0].box [0, 0.7, 1, 0.7] {INVERTED}"),
        ({"image": "images/bus.png"}, "image FOLDER/images/bus.png is missing"),
        ({"image": "images/\0"}, "image FOLDER/images/\0 is missing"),
        (
            {"scene": {"objects": []}},
            "scene.seed is missing or not a number from 0; scene.objects is missing or not a list of 1 to 5",
        ),
    ],
)
def test_faults_of_a_line(folder: Path, change: dict[str, Any], fault: str) -> None:
    path = save_lines(folder, LINE, LINE | {"id": "b"} | change)
    assert refuse(path) == [
        f"{path} contains annotations that cannot be used:",
        *(f"  - line 2: {each}" for each in fault.replace("FOLDER", str(folder)).split("; ")),
        "Correct them, or leave these images out with --skip-faulty.",
    ]


def test_faults_of_all_lines(folder: Path) -> None:
    path = folder / "annotations.jsonl"
    good = json.dumps(LINE)
    path.write_text(f'{good}\n\n{{"id": "cut\n[1]\n{good}\n{json.dumps(LINE | box(2, 0, 1, 1))}')
    faults = [
        "line 3 is not JSON: Invalid control character at (column 12)",
        "line 4 is not a JSON object",
        "line 5: id 'bus' is already used by line 1",
        f"line 6: boxes[0].box [2, 0, 1, 1] {OUTSIDE}",
    ]
    found = read_annotations(path, skip_faulty=True)
    assert [image.id for image in found.images] == ["bus"]
    listed = [f"  - {fault}" for fault in found.faults]
    assert refuse(path)[1:-1] == listed
    assert listed[1:] == [f"  - {fault}" for fault in faults[1:]]
    assert listed[0].startswith("  - line 3 is not JSON: ")


def test_nothing_left(folder: Path) -> None:
    path = save_lines(folder)
    assert refuse(path) == [f"{path} contains no usable images."]
    with pytest.raises(DataError, match="line 1: id is missing"):
        read_annotations(save_lines(folder, LINE | {"id": None}), skip_faulty=True)


def test_lines_have_their_own_boxes(folder: Path) -> None:
    assert "contains its own boxes" in refuse(save_lines(folder, LINE), None, folder / "i.json")[0]


def coco(folder: Path, captions: Any = None, instances: Any = None) -> tuple[Path, Path, Path]:
    return (
        save(folder / "captions.json", captions or CAPTIONS),
        folder / "images",
        save(folder / "instances.json", instances or INSTANCES),
    )


def test_coco(folder: Path) -> None:
    found = read_annotations(*coco(folder))
    bus = AnnotatedImage(
        "33471",
        "000000033471.jpg",
        ("A bus.", "A red bus.\n"),
        (Box("bus", 0.1, 0.25, 0.6, 360.5 / 480), Box("cat", 0.0, 0.0, 1.0, 1.0)),
    )
    assert found.images == (bus, AnnotatedImage("9", "9.jpg", ("A cat.",), ()))
    assert read_annotations(folder / "captions.json").images[0].boxes == ()


def changed(file: dict[str, Any], where: str, index: int, **fields: Any) -> dict[str, Any]:
    file = copy.deepcopy(file)
    file[where][index] |= fields
    return file


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"bbox": [600, 120, 60, 10]}, "bbox [600, 120, 60, 10] lies outside its image of 640 x 480 pixels"),
        ({"bbox": [-2, 120, 60, 10]}, "bbox [-2, 120, 60, 10] lies outside its image of 640 x 480 pixels"),
        ({"bbox": [640.2, 0, 0.5, 10]}, "bbox [640.2, 0, 0.5, 10] lies outside its image of 640 x 480 pixels"),
        ({"bbox": [0, 470, 60, 20]}, "bbox [0, 470, 60, 20] lies outside its image of 640 x 480 pixels"),
        ({"bbox": [5, 5, 0, 9]}, "bbox [5, 5, 0, 9] is empty: x, y, width, height in pixels"),
        ({"bbox": [5, 5, 9, -9]}, "bbox [5, 5, 9, -9] is empty: x, y, width, height in pixels"),
        ({"bbox": None}, "bbox is missing or not a list of four numbers"),
        ({"category_id": 5}, "there is no category 5"),
        ({"image_id": 5}, "there is no image 5"),
    ],
)
def test_faults_of_a_coco_box(folder: Path, fields: dict[str, Any], fault: str) -> None:
    arguments = coco(folder, instances=changed(INSTANCES, "annotations", 0, **fields))
    assert refuse(*arguments)[1:-1] == [f"  - instances.json: annotation 71: {fault}"]
    left = read_annotations(*arguments, skip_faulty=True).images
    assert [image.id for image in left] == (["33471", "9"] if "image_id" in fields else ["9"])


@pytest.mark.parametrize(
    ("where", "index", "fields", "faults"),
    [
        ("annotations", 1, {"image_id": 77}, ["annotation 2: there is no image 77", "image 9: it has no caption"]),
        ("annotations", 1, {"caption": None}, ["annotation 2: caption is missing or not a string"]),
        ("annotations", 0, {"id": None}, ["annotation without a valid id at index 0"]),
        ("images", 1, {"width": 0}, ["image 9: width or height is missing or not a positive number"]),
        ("images", 1, {"height": "50"}, ["image 9: width or height is missing or not a positive number"]),
        (
            "images",
            1,
            {"file_name": ""},
            ["image 9: file_name is missing or not a string", "image 9: image IMAGES/ is missing"],
        ),
        ("images", 1, {"file_name": "8.jpg"}, ["image 9: image IMAGES/8.jpg is missing"]),
        (
            "images",
            1,
            {"id": 33471},
            ["image 33471: its id is already used by another image", "annotation 2: there is no image 9"],
        ),
    ],
)
def test_faults_of_coco_captions(
    folder: Path, where: str, index: int, fields: dict[str, Any], faults: list[str]
) -> None:
    listed = refuse(*coco(folder, changed(CAPTIONS, where, index, **fields)))[1:-1]
    assert listed == [f"  - captions.json: {fault.replace('IMAGES', str(folder / 'images'))}" for fault in faults]


@pytest.mark.parametrize("value", [[], {}, {"images": []}, {"images": {}, "annotations": []}, 3])
def test_files_that_are_not_coco(folder: Path, value: Any) -> None:
    path = save(folder / "captions.json", value)
    assert refuse(path) == [
        f"{path} is not a COCO file with lists `images`, `annotations`. Name a file with one image per line *.jsonl."
    ]
    assert "`categories`" in refuse(coco(folder)[0], None, path)[0]


def test_scenes_come_back_as_they_were() -> None:
    for scene in islice(sample_scenes("train", 2**31 - 1), 50):
        faults: list[str] = []
        assert parse_scene(json.loads(json.dumps(format_scene(scene))), faults) == scene
        assert faults == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("shape", "hexagon", "not one of circle, square"),
        ("colour", None, "not one of red"),
        ("size", ["small"], "not one of small, large"),
        ("x", 1.1, "not a number from 0 to 1"),
        ("y", "0.5", "not a number from 0 to 1"),
        ("radius", True, "not a number from 0 to 0.5"),
        ("angle", float("nan"), "not a number from 0 to 6.283"),
    ],
)
def test_facts_that_are_none(name: str, value: Any, says: str) -> None:
    record = format_scene(next(sample_scenes("train", 0)))
    record["objects"][1][name] = value
    faults: list[str] = []
    assert parse_scene(record, faults) is None
    assert len(faults) == 1
    assert faults[0].startswith(f"scene.objects[1].{name} is missing or ")
    assert says in faults[0]


def test_context() -> None:
    boxes = (Box("fire hydrant", 0.0, 0.23999, 1.0, 1 / 3), Box("dog", 0.0004, 0.5, 0.12345, 0.9996))
    image = AnnotatedImage("a", "a.jpg", tuple(f"Caption {i}.\n" for i in range(7)), boxes)
    captions = "Caption 0.\nCaption 1.\nCaption 2.\nCaption 3.\nCaption 4."
    with_boxes = f"{captions}\n\nfire hydrant: [0.0, 0.24, 1.0, 0.333]\ndog: [0.0, 0.5, 0.123, 1.0]"
    assert format_context(image, "conversation") == captions
    assert format_context(image, "detail") == format_context(image, "reasoning") == with_boxes
    bare = AnnotatedImage("a", "a.jpg", ("One\n\ncaption.",), ())
    assert format_context(bare, "detail") == "One caption."
