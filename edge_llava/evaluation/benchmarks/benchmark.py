"""What a benchmark is: questions with labels, a way to read answers, and figures made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Item:
    """One question as it is asked, and what its answer is scored by.

    Attributes:
        question_id: As in the benchmark's files, and of the same type.
        text: What is asked, without marker and template.
        image: Name of the image file; None: asked as text alone.
        label: The right answer, in the benchmark's own form.
        groups: What it belongs to, by kind of group: {"category": "adversarial"}.
        shares_id: Whether other questions have the same id, so that an answer also has to name the question.
    """

    question_id: str | int
    text: str
    image: str | None
    label: Any
    groups: dict[str, str] = field(default_factory=dict)
    shares_id: bool = False

    @property
    def key(self) -> str:
        """What identifies it in the benchmark: the id as text, and the question where ids are shared."""
        return f"{self.question_id}\n{self.text}" if self.shares_id else str(self.question_id)

    @property
    def picture(self) -> str:
        """What questions about one image have in common."""
        return f"question {self.key}" if self.image is None else self.image


@dataclass(frozen=True)
class Mark:
    """What an answer is worth.

    Attributes:
        points: 0 to 1.
        reading: What was read in it, for people: "yes", "B", "" if nothing could be.
        is_unreadable: Whether it names none of the answers that there are; it then counts as wrong.
    """

    points: float
    reading: str
    is_unreadable: bool = False


@dataclass(frozen=True)
class Marked:
    """A question and what its answer is worth; without an answer, nothing."""

    item: Item
    mark: Mark
    text: str | None


@dataclass(frozen=True)
class Figure:
    """One number of a score.

    Attributes:
        name: In the terms of the benchmark: "F1, adversarial".
        value: In percent or in the benchmark's own points; None where it is not defined.
        n: Questions that it is made of.
        low, high: 95 % interval; None where there is none.
        is_main: Whether it is the number that tables show.
    """

    name: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    is_main: bool = False


class Benchmark(Protocol):
    """One benchmark with the user's data."""

    @property
    def name(self) -> str:
        """As on the command line: "pope"."""
        ...

    @property
    def variant(self) -> str:
        """What else a score depends on, for people: "labels of August 2023"."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """All questions, in the order of the files."""
        ...

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """The image that an item names: a file of a directory, which may be missing, or the bytes of one."""
        ...

    def mark(self, item: Item, text: str) -> Mark:
        """Reads an answer, stripped at both ends."""
        ...

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """The scores of all questions, or of a sample; the one that tables show comes first."""
        ...


class ImageFiles:
    """Of a benchmark whose images are files under the names that its items have."""

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """See `Benchmark.find_image`."""
        return directory / name
