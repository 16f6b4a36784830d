"""MM-Vet: open questions that need several abilities at once; a judge grades answers from 0 to 1.

Source: MM-Vet's evaluator, which grades with gpt-4-0613.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.judged import JudgeDefaults, Request, Review
from edge_llava.evaluation.intervals import bootstrap_interval
from edge_llava.home.json_files import read_json

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
WORDING = "prompt"  # the key of a user's wording
_PREFIX = "v1_"
_INSTRUCTIONS = """\
Compare the prediction with the ground truth, and grade how right it is from 0.0 (wrong) to 1.0 (right), in steps of
0.1. Where the ground truth contains <AND>, the prediction needs all its parts; where it contains <OR>, any one of them
is enough. Complete the last row of the table with its grade alone.

question | ground truth | prediction | grade
--- | --- | --- | ---
How many chairs are at the table? | 4 | There are three chairs. | 0.0
What does the sign say? | bakery | The sign says "Bakery". | 1.0
What are x and y? | x = 2 <AND> y = 5 | x is 2. | 0.5
What are x and y? | x = 2 <AND> y = 5 | x = 2, y = 5 | 1.0
Which animal is this? | a hare <OR> a rabbit | It looks like a rabbit. | 1.0
Why do people laugh? | The dog wears a tie <AND> it sits at a desk | A dog with a tie stands on the grass. | 0.5
"""
_AGAIN = "Reply with the number alone, from 0.0 to 1.0."


class MmVet(Usual):
    """MM-Vet's questions; the label of an item is the ground truth."""

    name, variant = "mm-vet", "graded by a judge"
    judge_defaults = JudgeDefaults(temperature=0.0, max_tokens=8, n_tries=6, warmer=0.5, typical_tokens=3)

    def __init__(self, items: Sequence[Item]) -> None:
        """See `read`."""
        self.items = items

    @classmethod
    def read(cls, paths: Sequence[Path]) -> MmVet:
        """Reads mm-vet.json.

        Raises:
            DataError: If the file cannot be read or is wrong; all faults at once.
        """
        if len(paths) != 1:
            raise DataError("MM-Vet needs one file, mm-vet.json.")
        data, faults, items = read_json(paths[0]), list[str](), []
        if not isinstance(data, dict):
            raise DataError(f"{paths[0]} does not contain an object of questions by id.")
        for id_, entry in data.items():
            fields = [
                entry.get(key) if isinstance(entry, dict) else None for key in ("question", "imagename", "answer")
            ]
            able = entry.get("capability") if isinstance(entry, dict) else None
            is_list = isinstance(able, list) and all(isinstance(each, str) for each in able)
            if not all(isinstance(field, str) for field in fields) or not is_list:
                faults.append(f"{id_}: not a question, an imagename, an answer and a list of capabilities")
                continue
            question, image, answer = map(str, fields)
            ranks = {name: rank for rank, name in enumerate(CAPABILITIES)}
            own = sorted(set(map(str, able or ())), key=lambda name: (ranks.get(name, len(ranks)), name))
            items.append(Item(id_, question, image, answer, {"capabilities": "+".join(own)}))
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} is no file of MM-Vet:", faults[:20] or ["no question"]))
        return cls(items)

    def answer_key(self, question_id: str | int, prompt: str) -> str:
        """The id; LLaVA's files have the number in it."""
        text = str(question_id)
        return f"{_PREFIX}{text}" if text.isascii() and text.isdecimal() else text

    def mark(self, item: Item, text: str) -> Mark:
        """Nothing: answers are judged."""
        return Mark(0.0, "")

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Nothing: answers are judged."""
        return []

    def request(self, item: Item, answer: str, wording: Mapping[str, str] | None, *, swapped: bool) -> Request:
        """See `Judged.request`; there is no reference whose place could be exchanged."""
        truth = str(item.label).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        table = _INSTRUCTIONS if wording is None else wording[WORDING]
        row = " | ".join(text.replace("\n", "<br>") for text in (item.text, truth, answer))
        return Request(({"role": "user", "content": f"{table.rstrip()}\n{row} | "},), again=_AGAIN)

    def read_reply(self, text: str, *, swapped: bool) -> tuple[float] | None:
        """The first word as a number from 0 to 1."""
        words = text.split()
        try:
            grade = float(words[0]) if words else math.nan
        except ValueError:
            return None
        return (grade,) if 0 <= grade <= 1 else None

    def upload(self, answers: Mapping[str, str]) -> dict[str, str]:
        """The texts by id, as MM-Vet's own evaluator and its server read them; "" for what is missing."""
        return {item.key: answers.get(item.key, "") for item in self.items}

    def judged_figures(self, judgings: Sequence[Sequence[Review]], items: Sequence[Item]) -> list[Figure]:
        """100 x the mean grade; of each capability, of the questions that need it; and of each set of capabilities.

        What has no answer, or no grade that can be read, counts 0, as published.
        """
        chosen = {"total": list(items)}
        sets = list(dict.fromkeys(item.groups["capabilities"] for item in items))
        chosen |= {name: [item for item in items if name in _needed(item)] for name in CAPABILITIES}
        chosen |= {f"exactly {own}": [item for item in items if item.groups["capabilities"] == own] for own in sets}
        figures = [_mean_grade(name, own, judgings) for name, own in chosen.items() if own]
        if len(judgings) > 1:
            totals = [_mean_grade("", items, [judging]) for judging in judgings]
            values = [figure.value for figure in totals if figure.value is not None]
            n, spread = totals[0].n, statistics.stdev(values)
            figures[1:1] = [
                *(Figure(f"total, judging {number}", figure.value, n) for number, figure in enumerate(totals, 1)),
                Figure("standard deviation of the totals", spread, n),
            ]
        return figures


def _needed(item: Item) -> list[str]:
    return item.groups["capabilities"].split("+")


def _mean_grade(name: str, items: Sequence[Item], judgings: Sequence[Sequence[Review]]) -> Figure:
    graded = [{review.question_id: review.ratings for review in judging} for judging in judgings]
    grades = [((ratings.get(str(item.question_id)) or (0.0,))[0], item.picture) for ratings in graded for item in items]
    parts = np.array([(grade, 1.0) for grade, _ in grades], np.float64)
    low, high = bootstrap_interval(parts, [picture for _, picture in grades], _percent)
    return Figure(name, _percent(parts.sum(0)), len(items), low, high, is_main=name == "total", method="bootstrap")


def _percent(sums: NDArray[np.float64]) -> float:
    return float(100 * sums[0] / sums[1])
