"""What benchmarks have in common whose answers a language model judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Item

PREFIX = "llava_bench_"  # of the categories of LLaVA-Bench in the wild


@dataclass(frozen=True)
class Review:
    """What a judge said about one answer.

    Attributes:
        question_id: Of the question.
        category: Of the question; "" where the benchmark has none.
        content: The judge's reply.
        ratings: Of the reference and of the answer, 0 to 10, or the answer's grade alone, 0 to 1; None where the reply
            does not state them.
        judge: Who said it, in which wording and at which temperature; "" where the file does not say.
    """

    question_id: str
    category: str
    content: str
    ratings: tuple[float, ...] | None
    judge: str = ""


@dataclass(frozen=True)
class Request:
    """What a judge is asked about an answer.

    Attributes:
        messages: Each with its role and its content.
        again: Said after the messages where a reply could not be read; "" asks the same again.
    """

    messages: tuple[dict[str, str], ...]
    again: str = ""


@dataclass(frozen=True)
class JudgeDefaults:
    """How the published scores were judged.

    Attributes:
        temperature, max_tokens: Of a reply.
        n_tries: How often a judge is asked whose reply cannot be read.
        warmer: What each further try adds to the temperature.
        typical_tokens: Of a reply, for estimates.
    """

    temperature: float
    max_tokens: int
    n_tries: int
    warmer: float
    typical_tokens: int


class Judged(Benchmark, Protocol):
    """A benchmark whose answers are judged."""

    @property
    def judge_defaults(self) -> JudgeDefaults:
        """How the published scores were judged."""
        ...

    def request(self, item: Item, answer: str, wording: Mapping[str, str] | None, *, swapped: bool) -> Request:
        """What a judge is asked.

        Args:
            item: The question.
            answer: The answer that is judged.
            wording: The user's, see `read_wording`; None: ours.
            swapped: Put the answer before the reference, where there is one.
        """
        ...

    def read_reply(self, text: str, *, swapped: bool) -> tuple[float, ...] | None:
        """The ratings in a judge's reply, see `Review.ratings`."""
        ...

    def judged_figures(self, judgings: Sequence[Sequence[Review]], items: Sequence[Item]) -> list[Figure]:
        """The scores of reviews.

        Args:
            judgings: Reviews of the same answers, once or several times.
            items: The questions that count: those of the reviews, and those without an answer.
        """
        ...
