"""Writes drawn scenes as a directory of annotated images.

DIR/images/<id>.jpg     the JPEG files, as they were encoded
DIR/annotations.jsonl   captions, boxes and facts, one scene per line; see `annotation_files`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.home.atomic_directory import atomic_directory
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.scenes.drawing import SIDE, encode_scene
from edge_llava.scenes.scene import Scene, Split, sample_scenes
from edge_llava.scenes.sentences import captions
from edge_llava.training.instructions.scene_facts import format_scene

ANNOTATIONS_NAME = "annotations.jsonl"


def write_scenes(
    directory: Path, split: Split, n: int, seed: int, side: int = SIDE, progress: ProgressCallback = silent
) -> None:
    """Draws scenes of one split; the same arguments produce the same bytes.

    Args:
        directory: New, or empty.
        split: Which scenes: the two splits never share one.
        n: Number of scenes.
        seed: Which scenes of the split.
        side: Width and height in pixels.
        progress: Called after every image.

    Raises:
        DataError: If the directory is not empty or cannot be written; nothing is left behind.
    """
    with _new_directory(directory) as growing:
        (growing / "images").mkdir()
        with (growing / ANNOTATIONS_NAME).open("w", encoding="utf-8") as annotations:
            for index, scene in enumerate(islice(sample_scenes(split, seed), n)):
                identity = f"{split}-{seed}-{index:06d}"
                image = f"images/{identity}.jpg"
                (growing / image).write_bytes(encode_scene(scene, side))
                annotations.write(_line(identity, image, scene))
                progress(ProgressEvent(f"drawing {split} scenes", index + 1, n, "items"))


def _line(identity: str, image: str, scene: Scene) -> str:
    record = {
        "id": identity,
        "image": image,
        "captions": captions(scene),
        "boxes": [{"category": thing.phrase, "box": [round(v, 6) for v in thing.box]} for thing in scene.objects],
        "scene": format_scene(scene),
    }
    return f"{json.dumps(record)}\n"


@contextmanager
def _new_directory(directory: Path) -> Iterator[Path]:
    """Does what `atomic_directory` does, with errors for users."""
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} already exists and is not empty. Choose another directory.")
    try:
        with atomic_directory(directory, overwrite=False) as growing:
            yield growing
    except OSError as error:
        raise DataError(f"{directory} cannot be written: {error.strerror}. Nothing was kept.") from error
