"""Scenes as files: the same seed gives the same bytes, facts can be read back, and a failure leaves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_llava.errors import DataError
from edge_llava.home.progress import ProgressEvent
from edge_llava.scenes.drawing import draw_map, encode_scene
from edge_llava.scenes.scene import sample_scenes
from edge_llava.scenes.sentences import captions
from edge_llava.training.instructions.annotation_files import read_annotations
from edge_llava.training.instructions.scene_files import write_scenes


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_files_are_what_the_scenes_are(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", "held-out", 8, 3, side=96)
    images = read_annotations(tmp_path / "s" / "annotations.jsonl").images
    scenes = list(islice(sample_scenes("held-out", 3), 8))
    assert [image.scene for image in images] == scenes
    assert [image.id for image in images] == [f"held-out-3-{i:06d}" for i in range(8)]
    for image, scene in zip(images, scenes, strict=True):
        content = (tmp_path / "s" / image.path).read_bytes()
        assert content == encode_scene(scene, 96)
        assert Image.open(io.BytesIO(content)).size == (96, 96)
        assert image.captions == captions(scene)
        assert [box.category for box in image.boxes] == [thing.phrase for thing in scene.objects]
    assert len(list((tmp_path / "s" / "images").iterdir())) == 8


def test_boxes_are_around_what_is_drawn(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", "train", 12, 0, side=64)
    for image in read_annotations(tmp_path / "s" / "annotations.jsonl").images:
        seen = draw_map(image.scene, 400)  # type: ignore[arg-type]
        for index, box in enumerate(image.boxes):
            ys, xs = np.nonzero(seen == index)
            found = (xs.min() / 400, ys.min() / 400, (xs.max() + 1) / 400, (ys.max() + 1) / 400)
            corners = (box.left, box.top, box.right, box.bottom)
            # later objects may cover an edge of earlier ones a little
            assert all(abs(a - b) < 0.05 for a, b in zip(found, corners, strict=True))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(tmp_path / name, "train", 3, seed, side=48)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")


def test_progress(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    write_scenes(tmp_path / "s", "train", 3, 0, side=32, progress=events.append)
    assert events == [ProgressEvent("drawing train scenes", i, 3, "items") for i in (1, 2, 3)]


def test_an_empty_directory_is_filled_and_another_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    write_scenes(Path("sub"), "train", 1, 0, side=32)
    write_scenes(tmp_path / "new" / "deep", "train", 1, 0, side=32)
    before = digests(tmp_path)
    for place in ("empty", "empty/sub/annotations.jsonl"):
        with pytest.raises(DataError, match=r"already exists and is not empty"):
            write_scenes(tmp_path / place, "train", 1, 0, side=32)
    assert digests(tmp_path) == before


def test_nothing_is_left_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "s", "train", 5, 0, side=32, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written: .*Nothing was kept\."):
        write_scenes(tmp_path / "file" / "s", "train", 1, 0, side=32)


def test_paths_are_those_of_the_web(tmp_path: Path) -> None:
    """Written on Windows, read anywhere."""
    write_scenes(tmp_path / "s", "train", 1, 0, side=32)
    record = json.loads((tmp_path / "s" / "annotations.jsonl").read_text())
    assert record["image"] == "images/train-0-000000.jpg"
    assert os.sep not in record["image"].replace("/", "")
