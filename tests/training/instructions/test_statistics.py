"""Counts that are checked by hand, and a sheet whose pixels are checked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_llava.errors import DataError
from edge_llava.training.instructions.contact_sheet import choose_samples, write_contact_sheet
from edge_llava.training.instructions.conversations import Conversation, Turn
from edge_llava.training.instructions.statistics import Distribution, Statistics, find_type, summarize

A, B, C = (
    Turn("What is it?", "A big red bus."),
    Turn("Is it wet?", "No."),
    Turn("Why?", "It has not rained for two weeks."),
)


def talk(id: str, image: str | None, *turns: Turn, type: str | None = None) -> Conversation:
    return Conversation(id, image, turns or (A,), type)


def test_counts() -> None:
    found = summarize(
        [
            talk("1", "a.jpg", A, B, type="conversation"),
            talk("2", "a.jpg", A, type="detail"),
            talk("3", "b.jpg", A, B, type="conversation"),
            talk("4", "a.jpg", A, B),
            talk("5_reasoning", "c.jpg", C),
            talk("6", None, C),
            talk("7", None, C),
        ]
    )
    assert found == Statistics(
        n_records=7,
        n_turns=10,
        n_pictures=3,
        n_without_picture=2,
        turns=Distribution(1, 1.0, 10 / 7, 2),
        question_words=Distribution(1, 3.0, (4 * 3 + 3 * 3 + 3 * 1) / 10, 3),
        answer_words=Distribution(1, 4.0, (4 * 4 + 3 * 1 + 3 * 7) / 10, 7),
        types={"conversation": 2, "detail": 1, "reasoning": 1, "unknown": 3},
        n_repeated_records=2,  # 4 is 1 again, 7 is 6 again
        n_repeated_questions=3,  # A in 2, A and B in 4; 6 and 7 have no image
    )


@pytest.mark.parametrize(
    ("id", "type", "expected"),
    [
        ("7", None, "unknown"),
        ("7-detail", None, "detail"),
        ("7_conversation", None, "conversation"),
        ("detail", None, "unknown"),
        ("7-detail-2", None, "unknown"),
        ("7-detail", "reasoning", "reasoning"),
        ("7", "vqa", "vqa"),
    ],
)
def test_type(id: str, type: str | None, expected: str) -> None:
    assert find_type(talk(id, "a.jpg", type=type)) == expected


def test_other_types_come_last() -> None:
    found = summarize([talk(str(i), "a", type=name) for i, name in enumerate(("vqa", "reasoning", "aaa", "detail"))])
    assert list(found.types) == ["detail", "reasoning", "aaa", "vqa"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(20):
        Image.new("RGB", (300, 100) if i % 2 else (100, 300), (0, 0, 10 * i)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_samples_take_types_by_turns_and_images_once() -> None:
    many = [talk(f"{i}", f"{i // 3}", type=("conversation", "detail", "reasoning")[i % 3]) for i in range(90)]
    chosen = choose_samples(many, 0)
    assert Counter(find_type(c) for c in chosen) == {"conversation": 4, "detail": 4, "reasoning": 4}
    assert len({c.image for c in chosen}) == 12
    assert chosen == choose_samples(many, 0) != choose_samples(many, 1)
    rare = [talk(f"{i}", f"{i}", type="detail" if i else "reasoning") for i in range(30)]
    assert Counter(find_type(c) for c in choose_samples(rare, 0)) == {"detail": 11, "reasoning": 1}
    assert sorted(c.id for c in choose_samples(many[:3], 0)) == ["0", "1", "2"], "one image, shown three times"


def blue(sheet: np.ndarray) -> set[int]:
    """The pure blues of the images in a sheet (text is never pure blue)."""
    pixels = sheet.reshape(-1, 3)
    return {int(b) for r, g, b in np.unique(pixels, axis=0) if r == g == 0}


def test_sheet_shows_the_images(images: Path, tmp_path: Path) -> None:
    conversations = [talk(f"{i}", f"{i}.png", type="detail") for i in range(12)]
    assert write_contact_sheet(tmp_path / "out" / "sheet.png", conversations, images) == 0
    with Image.open(tmp_path / "out" / "sheet.png") as file:
        assert file.format == "PNG"
        sheet = np.asarray(file.convert("RGB"))
    assert sheet.shape[1] == 4 * 300 + 20
    assert blue(sheet) == {10 * i for i in range(12)}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]


def test_sheet_shows_the_words(images: Path, tmp_path: Path) -> None:
    """More words make it higher, up to a bound, and dark ink appears below the image."""

    def height(answer: str) -> int:
        write_contact_sheet(tmp_path / "s.png", [talk("1", "1.png", Turn("What?", answer))], images)
        with Image.open(tmp_path / "s.png") as file:
            pixels = np.asarray(file.convert("L"))
        assert (pixels[250:] < 80).any()
        return len(pixels)

    heights = [height("word " * n) for n in (1, 20, 60, 400, 4000)]
    assert heights[0] < heights[1] < heights[2] <= heights[3] == heights[4]
    assert height("x" * 5000) == heights[0], "one word is cut"


def test_images_that_cannot_be_read(images: Path, tmp_path: Path) -> None:
    (images / "junk.png").write_bytes(b"junk")
    whole = (images / "1.png").read_bytes()
    (images / "half.png").write_bytes(whole[:40])
    names = ["junk.png", "half.png", "nowhere.png", "1.png", "\0"]
    conversations = [talk(name, name) for name in names]
    assert write_contact_sheet(tmp_path / "s.png", conversations, images) == 4


def test_sheet_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs conversations about images"):
        write_contact_sheet(tmp_path / "s.png", [talk("1", None)], tmp_path)


def test_sheet_that_cannot_be_written(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_contact_sheet(tmp_path / "file" / "s.png", [talk("1", "1.png")], images)
