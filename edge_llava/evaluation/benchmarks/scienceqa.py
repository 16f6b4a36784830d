"""ScienceQA: choices about school subjects, half of them with a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.answers import Answer
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, SecondCall, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy
from edge_llava.evaluation.benchmarks.prompts import LETTER, LETTERS
from edge_llava.evaluation.benchmarks.scienceqa_problem import Problem, ask, read_letter, read_problems
from edge_llava.home.json_files import read_json

_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_MARKER = "<image>"
# The first LLaVA reasoned, and was then asked to complete "ANSWER:".
_LEPA = SecondCall(stop="###", lead=" ###\nANSWER:", max_tokens=64, between=" The answer is ")
_LOW_GRADES = tuple(f"grade{n}" for n in range(1, 7))
_HIGH_GRADES = tuple(f"grade{n}" for n in range(7, 13))


class ScienceQa(Usual):
    """ScienceQA's problems; the label of an item is (index of the right choice, number of choices)."""

    name = "scienceqa"

    def __init__(self, items: Sequence[Item], variant: str, *, is_of_1_5: bool = True) -> None:
        """See `read`."""
        self.items, self.variant, self.is_of_1_5 = items, variant, is_of_1_5

    @classmethod
    def read(cls, paths: Sequence[Path], *, split: str = "test", form: str = "letter") -> ScienceQa:
        """Reads ScienceQA.

        Args:
            paths: One: the directory with problems.json and pid_splits.json, or LLaVA's question file with labels,
                which states neither subjects nor grades.
            split: Of the directory.
            form: One of `scienceqa_problem.FORMATS`.

        Raises:
            DataError: If files cannot be read or are wrong; all faults at once.
        """
        if len(paths) != 1:
            raise DataError("ScienceQA is one directory, or one question file with labels.")
        if paths[0].is_dir():
            problems = read_problems(paths[0], split)
            items = [_item(problem, form) for problem in problems]
            return cls(items, f"{split}, format {form}", is_of_1_5=form == "letter")
        return cls(_read_question_file(paths[0]), "format letter")

    def mark(self, item: Item, text: str) -> Mark:
        """See `scienceqa_problem.read_letter`."""
        answer, n_choices = item.label
        found = read_letter(text)
        if found is None:
            return Mark(0.0, "", is_unreadable=True)
        letter = chr(ord("A") + found)
        return Mark(float(found == answer), letter if found < n_choices else f"{letter}, beyond the choices")

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """The article's columns; those whose facts the data do not state are left out."""
        columns: list[tuple[str, Callable[[Item], bool]]] = [
            *((short, _is("subject", (long,))) for long, short in _SUBJECTS.items()),
            ("TXT", lambda item: "hint" in item.groups),
            ("IMG", lambda item: item.image is not None),
            ("NO", lambda item: "hint" not in item.groups and item.image is None),
            ("G1-6", _is("grade", _LOW_GRADES)),
            ("G7-12", _is("grade", _HIGH_GRADES)),
        ]
        chosen = [(name, [each for each in marked if belongs(each.item)]) for name, belongs in columns]
        return [accuracy("Avg", marked, is_main=True), *(accuracy(name, part) for name, part in chosen if part)]


def read_results(path: Path, *, reread: bool = False) -> list[Answer] | None:
    """Reads a result file of ScienceQA's scripts; None if it is none.

    Args:
        path: {"results": {id: index}, "outputs": {id: text}}.
        reread: Take the texts and read them anew, in place of what was read of them.

    Raises:
        DataError: If the file cannot be read, or lacks texts that are to be read anew.
    """
    if path.suffix.lower() != ".json":
        return None
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
        return None
    if not reread:
        indices = data["results"].items()
        return [Answer(str(id_), "", LETTERS[n] if isinstance(n, int) and 0 <= n < 5 else "") for id_, n in indices]
    if not isinstance(data.get("outputs"), dict):
        raise DataError(f"{path} has no texts (outputs) that could be read anew.")
    return [Answer(str(id_), "", str(text)) for id_, text in data["outputs"].items()]


def _is(kind: str, names: tuple[str, ...]) -> Callable[[Item], bool]:
    return lambda item: item.groups.get(kind) in names


def _item(problem: Problem, form: str) -> Item:
    groups = problem.groups | ({"hint": "yes"} if problem.hint else {})
    label = problem.answer, len(problem.choices)
    second = _LEPA if form.endswith("-LEPA") else None
    return Item(problem.id, ask(problem, form), problem.image_place, label, groups, second=second)


def _read_question_file(path: Path) -> list[Item]:
    """LLaVA's question file: conversations of a question and the letter of its answer."""
    records, items, faults = read_json(path), list[Item](), list[str]()
    if not isinstance(records, list):
        raise DataError(f"{path} is neither a directory of ScienceQA nor a list of its questions.")
    for number, record in enumerate(records):
        said = record.get("conversations") if isinstance(record, dict) else None
        values = [each.get("value") for each in said if isinstance(each, dict)] if isinstance(said, list) else []
        id_, image = (record.get("id"), record.get("image")) if isinstance(record, dict) else (None, None)
        is_right = isinstance(id_, int | str) and isinstance(image, str | None)
        if len(values) != 2 or not all(isinstance(value, str) for value in values) or not is_right:
            faults.append(f"record {number}: not an id, a question and its answer, and an image or none")
            continue
        question, answer = str(values[0]).replace(_MARKER, "").strip("\n"), str(values[1])
        options = _options(question)
        if answer not in options:
            faults.append(f"record {number}: the answer {answer!r} is none of its options")
            continue
        groups = {"hint": "yes"} if question.startswith("Context: ") else {}
        label = LETTERS.index(answer), len(options)
        items.append(Item(str(id_), f"{question}\n{LETTER}", image, label, groups))
    if faults or not items:
        raise DataError(list_faults(f"{path} is no question file of ScienceQA:", faults[:20] or ["it is empty"]))
    return items


def _options(question: str) -> list[str]:
    """The letters at the end of a question, in their order."""
    letters = [line[:1] for line in question.split("\n") if line[1:3] == ". "]
    for n in range(min(len(letters), len(LETTERS)), 1, -1):  # a hint may have lines that look like options
        if letters[-n:] == list(LETTERS[:n]):
            return letters[-n:]
    return []
