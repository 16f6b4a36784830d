"""Answer files: the lines that LLaVA's own scripts write, whoever wrote them.

{"question_id": 17, "prompt": "What is on the stove?", "text": "A kettle", "answer_id": "f3a9c01d", ...}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Item
from edge_llava.home.json_files import read_json_lines

_SHOWN = 5
_MARKER = "<image>"


@dataclass(frozen=True)
class Answer:
    """One line.

    Attributes:
        question_id: The question's.
        prompt: What was asked; "" if the file does not say.
        text: The answer's.
    """

    question_id: str | int
    prompt: str
    text: str


def read_answers(path: Path) -> list[Answer]:
    """Reads an answer file.

    Raises:
        DataError: If it cannot be read, or any line is wrong; all faults at once.
    """
    faults: list[str] = []
    answers = [_read(line, number, faults) for number, line in read_json_lines(path, faults)]
    if faults:
        raise DataError(list_faults(f"{path} contains lines that are not answers:", faults[:20]))
    if not answers:
        raise DataError(f"{path} contains no answers.")
    return answers


def join_answers(benchmark: Benchmark, answers: Sequence[Answer], where: str) -> dict[str, str]:
    """Finds the question of each answer: its text by `Item.key`, stripped at both ends.

    Raises:
        DataError: If an answer belongs to no question, a question has several, or was asked in other words than the
            answer says; each kind with its first five.
    """
    items = {item.key: item for item in benchmark.items}
    found: dict[str, Answer] = {}
    surplus, doubled = list[str](), list[str]()
    for answer in answers:
        key = benchmark.answer_key(answer.question_id, answer.prompt)
        free = next((k for k in _occurrences(key, items) if k not in found), None)
        if key not in items:
            surplus.append(key)
        elif free is None:
            doubled.append(key)
        else:
            found[free] = answer
    for key, item in items.items():  # equal questions may have been answered once
        if key not in found and item.occurrence > 1 and (first := key.rpartition("#")[0]) in found:
            found[key] = found[first]
    other = [
        f"{key}: {_asked(answer)!r}, and the data say {items[key].text!r}"
        for key, answer in found.items()
        if answer.prompt and not items[key].join and not _is_same(answer, items[key])
    ]
    faults = [
        *_listed("answers that belong to no question", surplus),
        *_listed("questions with more than one answer", list(dict.fromkeys(doubled))),
        *_listed("questions that were asked in other words", other, n_shown=1),
    ]
    if faults:
        advice = "Are they of the same version, and the questions of the same form? Where ids are shared, answers need "
        advice += "their prompt."
        raise DataError(list_faults(f"{where} does not fit the data of {benchmark.name}:", faults, advice))
    return {key: answer.text.strip() for key, answer in found.items()}


def _occurrences(key: str, items: Mapping[str, Item]) -> Iterator[str]:
    """The keys of equal questions."""
    n = 1
    while (each := key if n == 1 else f"{key}#{n}") in items:
        yield each
        n += 1


def _read(line: dict[str, Any], number: int, faults: list[str]) -> Answer:
    id_, prompt, text = line.get("question_id"), line.get("prompt", ""), line.get("text")
    if not isinstance(id_, (str, int)) or isinstance(id_, bool):
        faults.append(f"line {number}: question_id is neither text nor an integer")
    if not isinstance(prompt, str):
        faults.append(f"line {number}: prompt is not text")
    if not isinstance(text, str):
        faults.append(f"line {number}: text is missing or not text")
    return Answer(id_ if isinstance(id_, (str, int)) else "", str(prompt), str(text))


def _asked(answer: Answer) -> str:
    """What was asked, without the marker of an image."""
    return answer.prompt.removeprefix(_MARKER).removesuffix(_MARKER).strip("\n")


def _is_same(answer: Answer, item: Item) -> bool:
    """Whether an answer is to this question, whatever blanks are around it, and also without its last line.

    That is what LLaVA's scripts add while they ask, and some write down the question as it was before.
    """
    asked = _asked(answer).split()
    return asked in (item.text.split(), item.text.rpartition("\n")[0].split())


def _listed(what: str, found: Sequence[str], n_shown: int = _SHOWN) -> list[str]:
    if not found:
        return []
    more = "" if len(found) <= n_shown else f" and {len(found) - n_shown:,} more"
    return [f"{what}: {len(found):,} ({', '.join(found[:n_shown])}{more})".replace("\n", " ")]
