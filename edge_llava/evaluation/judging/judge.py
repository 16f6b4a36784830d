"""Judges the answers of a run: asks for a review of each, and writes them as published files have them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.benchmark import Item
from edge_llava.evaluation.benchmarks.judged import Judged, Review
from edge_llava.evaluation.benchmarks.reviews import ANSWER_FIRST
from edge_llava.evaluation.judging.wording import OWN
from edge_llava.home.json_files import read_text, write_text
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.remote.asking import ask_all
from edge_llava.remote.budget import Estimate
from edge_llava.remote.chat_client import NO_REPLY, Fault
from edge_llava.remote.kept_replies import KeptReplies, Question, estimate_tokens

_MAX_SILENT = 3  # answers in a row without any reply: the judge is unavailable
_REVIEWS = re.compile(r"reviews(-\d+)?(-swapped)?\.jsonl")
_HOTTEST = 2.0  # servers refuse more
_FAILED = (-1, -1)  # what published files state where ratings could not be read


@dataclass(frozen=True)
class JudgeOptions:
    """How answers are judged.

    Attributes:
        n_judgings: How often each answer is judged; scores are means.
        swap: Judge each answer a second time in the other place, where there is a reference.
        temperature: None: the benchmark's.
        wording: The user's, see `read_wording`; None: ours.
        wording_name: What is kept of it.
        concurrency: Requests at the same time.
    """

    n_judgings: int = 1
    swap: bool = False
    temperature: float | None = None
    wording: Mapping[str, str] | None = None
    wording_name: str = OWN
    concurrency: int = 4


@dataclass(frozen=True)
class Answered:
    """An answer of a run, with its question and its id.

    Attributes:
        is_cut_off: Whether it ended at the limit of tokens.
    """

    item: Item
    text: str
    answer_id: str
    is_cut_off: bool = False


@dataclass(frozen=True)
class _Task:
    """One review to be asked for."""

    answered: Answered
    judging: int
    swapped: bool


@dataclass(frozen=True)
class _Reply:
    text: str
    ratings: tuple[float, ...] | None
    fault: Fault | None


class Judge:
    """A judge of the answers to one benchmark."""

    def __init__(self, benchmark: Judged, replies: KeptReplies, name: str, options: JudgeOptions) -> None:
        """
        Args:
            benchmark: Its requests and its reading of replies.
            replies: Asks a model, and keeps what it said.
            name: Of the model, for the reviews.
            options: How answers are judged.
        """
        self._benchmark, self._replies, self._name, self._options = benchmark, replies, name, options

    def estimate(self, answers: Sequence[Answered]) -> Estimate:
        """What is still to be asked, in about how many tokens."""
        asked = [self._question(task, 1) for task in self._tasks(answers)]
        new = [question for question in asked if not self._replies.is_kept(question)]
        typical = self._benchmark.judge_defaults.typical_tokens
        return Estimate(len(new), sum(estimate_tokens(each.messages) for each in new), typical * len(new))

    def judge(self, answers: Sequence[Answered], directory: Path, progress: ProgressCallback = silent) -> None:
        """Asks for reviews, and writes those that there are: reviews.jsonl, reviews-2.jsonl and so on.

        Raises:
            DataError: If the judge refuses or is unavailable, the budget is spent, or a file cannot be written. What
                came before is kept; files with more reviews than there are now stay as they are.
        """
        tasks, is_complete = self._tasks(answers), False
        try:
            self._ask_all(tasks, progress)
            is_complete = True
        finally:
            files = self._files(tasks, directory)
            for path, lines in files.items():
                if is_complete or len(lines) >= _count_lines(path):
                    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
        for path in directory.glob("reviews*.jsonl"):
            if _REVIEWS.fullmatch(path.name) and path not in files:  # of more judgings; their replies are kept
                path.unlink()

    def _ask_all(self, tasks: Sequence[_Task], progress: ProgressCallback) -> None:
        n_done = n_silent = 0
        with closing(ask_all(self._ask, tasks, self._options.concurrency)) as arriving:
            for _, reply in arriving:
                n_done += 1
                n_silent = 0 if reply.fault is None else n_silent + 1
                if reply.fault is not None and n_silent >= _MAX_SILENT:
                    raise DataError(f"{self._name} gave no reply {n_silent} times in a row: {reply.fault.detail}.")
                progress(ProgressEvent("judging", n_done, len(tasks), "items"))

    def _tasks(self, answers: Sequence[Answered]) -> list[_Task]:
        places = (False, True) if self._options.swap else (False,)
        rounds = range(1, self._options.n_judgings + 1)
        return [_Task(each, number, place) for number in rounds for place in places for each in answers]

    def _ask(self, task: _Task, *, kept_only: bool = False) -> _Reply:
        """Asks until a reply can be read, or the tries are spent; with `kept_only`, looks at what was replied."""
        reply = _Reply("", None, Fault(NO_REPLY, "not asked"))
        for n_tried in range(1, self._benchmark.judge_defaults.n_tries + 1):
            question = self._question(task, n_tried)
            if kept_only and not self._replies.is_kept(question):
                break
            said = self._replies.ask(question)
            ratings = self._benchmark.read_reply(said.text, swapped=task.swapped)
            reply = _Reply(said.text, ratings, None if said.is_said else said.fault)
            if ratings is not None or reply.fault is not None:
                break
        return reply

    def _question(self, task: _Task, n_tried: int) -> Question:
        own, given = self._benchmark.judge_defaults, self._options.temperature
        answered = task.answered
        request = self._benchmark.request(answered.item, answered.text, self._options.wording, swapped=task.swapped)
        messages = list(request.messages)
        if n_tried > 1 and request.again:
            last = messages[-1]
            messages[-1] = last | {"content": f"{last['content']}\n{request.again}"}
        temperature = (own.temperature if given is None else given) + own.warmer * (n_tried - 1)
        temperature = min(temperature, max(_HOTTEST, given or 0.0))
        return Question(tuple(messages), temperature, own.max_tokens, f"judging {task.judging}, try {n_tried}")

    def _files(self, tasks: Sequence[_Task], directory: Path) -> dict[Path, list[dict[str, Any]]]:
        """The files of reviews, each with a line for every reply that is kept, in the order of the questions."""
        order = {item.key: number for number, item in enumerate(self._benchmark.items, 1)}
        files: dict[Path, list[dict[str, Any]]] = {}
        for task in sorted(tasks, key=lambda task: order[task.answered.item.key]):
            lines = files.setdefault(review_path(directory, task.judging, swapped=task.swapped), [])
            reply = self._ask(task, kept_only=True)
            if reply.fault is None:
                lines.append(self._line(order[task.answered.item.key], task, reply))
        return files

    def _line(self, number: int, task: _Task, reply: _Reply) -> dict[str, Any]:
        item = task.answered.item
        facts = {
            "judge": self._name,
            "wording": self._options.wording_name,
            "temperature": self._question(task, 1).temperature,
            "first": ANSWER_FIRST if task.swapped else "reference",
        }
        return {
            "id": number,
            "question_id": item.question_id,
            "answer1_id": f"reference-{item.question_id}",
            "answer2_id": task.answered.answer_id,
            "category": item.groups.get("category", ""),
            "content": reply.text,
            "tuple": list(reply.ratings or _FAILED),
            "metadata": facts,
        }


def review_path(directory: Path, judging: int, *, swapped: bool) -> Path:
    """Where the reviews of one judging lie in a run."""
    number = "" if judging == 1 else f"-{judging}"
    return directory / f"reviews{number}{'-swapped' if swapped else ''}.jsonl"


def _count_lines(path: Path) -> int:
    return len(read_text(path).splitlines()) if path.is_file() else 0


def find_reviews(directory: Path, *, swapped: bool) -> list[Path]:
    """The files of reviews that a run has, in the order of their judgings."""
    found: list[Path] = []
    while (path := review_path(directory, len(found) + 1, swapped=swapped)).is_file():
        found.append(path)
    return found


def reviews_that_all_have(judgings: Sequence[Sequence[Review]]) -> list[list[Review]]:
    """The reviews of those questions that were judged in every judging."""
    common = set.intersection(*({review.question_id for review in reviews} for reviews in judgings))
    return [[review for review in reviews if review.question_id in common] for reviews in judgings]
