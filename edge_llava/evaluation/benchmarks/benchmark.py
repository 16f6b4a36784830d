"""What a benchmark is: questions with labels, a way to read answers, and figures made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge_llava.evaluation.benchmarks.source import Source


@dataclass(frozen=True)
class SecondCall:
    """How an answer is asked to go on: the model reasons first, and is then asked for its letter.

    Attributes:
        stop: What ends both parts.
        lead: What follows the first part, and is continued.
        max_tokens: Of the second part.
        between: What stands between the two parts where they are recorded.
    """

    stop: str
    lead: str
    max_tokens: int
    between: str


@dataclass(frozen=True)
class Item:
    """One question as it is asked, and what its answer is scored by.

    Attributes:
        question_id: As in the benchmark's files, and of the same type.
        text: What is asked, without marker and template.
        image: Name of the image file; None: asked as text alone.
        label: The right answer, in the benchmark's own form.
        groups: What it belongs to, by kind of group: {"category": "adversarial"}.
        join: What identifies it where ids are shared, see `Benchmark.answer_key`; "": the id does.
        occurrence: Which one it is of several equal questions, from 1.
        second: How the answer goes on; the image of such a question stands behind its text. None: in one call.
    """

    question_id: str | int
    text: str
    image: str | None
    label: Any
    groups: dict[str, str] = field(default_factory=dict)
    join: str = ""
    occurrence: int = 1
    second: SecondCall | None = None

    @property
    def key(self) -> str:
        """What identifies it in the benchmark."""
        key = self.join or str(self.question_id)
        return key if self.occurrence == 1 else f"{key}#{self.occurrence}"

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
        is_unreadable: Whether it names none of the answers that there are.
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
        name: In the terms of the benchmark: "F1, adversarial"; each once.
        value: In percent or in the benchmark's own points; None where it is not defined.
        n: Questions that it is made of.
        low, high: 95 % interval; None where there is none.
        is_main: Whether it is the number that tables show.
        method: How the interval was computed: "wilson or clustered" by picture, whichever is wider, or "bootstrap";
            "count": the value is a number of questions.
    """

    name: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    is_main: bool = False
    method: str | None = None


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

    source: Source | None
    """What it can be read from again; None where it was not read by `read_benchmark`."""

    @property
    def is_of_1_5(self) -> bool:
        """Whether it belongs to LLaVA-1.5's evaluation, which asked in the template vicuna_v1."""
        ...

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """The image that an item names: a file of a directory, which may be missing, or the bytes of one."""
        ...

    def answer_key(self, question_id: str | int, prompt: str) -> str:
        """`Item.key` of the question that an answer of these facts belongs to; `prompt` may be ""."""
        ...

    def mark(self, item: Item, text: str) -> Mark:
        """Reads an answer, stripped at both ends."""
        ...

    def units(self, marked: Sequence[Marked]) -> Sequence[Marked]:
        """What counts as one: questions, or several that are right only together."""
        ...

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """The scores of all questions, or of a sample; the one that tables show comes first. None without labels."""
        ...

    def upload(self, answers: Mapping[str, str]) -> Any:
        """What the benchmark's server takes, as JSON values, of texts by `Item.key`; None where it has none."""
        ...


class Usual:
    """What most benchmarks have in common: ids of their own, images as files, and questions that count one by one."""

    source: Source | None = None
    is_of_1_5: bool = True

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """The file of this name."""
        return directory / name

    def answer_key(self, question_id: str | int, prompt: str) -> str:
        """The id."""
        return str(question_id)

    def units(self, marked: Sequence[Marked]) -> Sequence[Marked]:
        """The questions."""
        return marked

    def upload(self, answers: Mapping[str, str]) -> Any:
        """Nothing: labels are public."""
        return None
