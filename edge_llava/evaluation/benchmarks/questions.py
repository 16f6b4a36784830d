"""Questions of the user's own, in the form of LLaVA's question files, with or without answers.

{"question_id": 17, "image": "kitchen/0017.jpg", "text": "What is on the stove?", "category": "default"}
{"question_id": 17, "answer": "a kettle"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy, accuracy_by
from edge_llava.evaluation.benchmarks.vqa_text import normalize
from edge_llava.home.json_files import read_json_lines


class Questions(Usual):
    """The label of an item is the right answer, or None."""

    name = "questions"

    def __init__(self, items: Sequence[Item], variant: str) -> None:
        """See `read`."""
        self.items, self.variant = items, variant

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Questions:
        """Reads a question file, and after it a file of answers, if there is one.

        Raises:
            DataError: If a file cannot be read, lines are wrong, or answers are missing; all faults at once.
        """
        if len(paths) not in (1, 2):
            raise DataError("name a question file (.jsonl), and a file of its answers if there is one.")
        faults: list[str] = []
        answers = _read_answers(paths[1], faults) if len(paths) == 2 else None
        items = []
        for number, line in read_json_lines(paths[0], faults):
            id_, text, image = line.get("question_id"), line.get("text"), line.get("image")
            if (
                not isinstance(id_, int | str)
                or isinstance(id_, bool)
                or not isinstance(text, str)
                or not isinstance(image, str | None)
            ):
                faults.append(f"{paths[0].name}, line {number}: not a question_id, a text, and an image or none")
                continue
            if answers is not None and str(id_) not in answers:
                faults.append(f"{paths[0].name}, line {number}: {paths[1].name} has no answer to question {id_}")
            groups = {"category": str(line["category"])} if line.get("category") else {}
            label = None if answers is None else answers.get(str(id_))
            items.append(Item(id_, text, image, label, groups))
        doubled = [id_ for id_, n in Counter(str(item.question_id) for item in items).items() if n > 1]
        faults += [f"question_id {', '.join(doubled[:5])} occurs more than once"] if doubled else []
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} cannot be used:", faults[:20] or ["it has no questions"]))
        return cls(items, "without answers" if answers is None else "exact match")

    def mark(self, item: Item, text: str) -> Mark:
        """Right if it is the answer, both in TextVQA's form."""
        said = normalize(text)
        return Mark(float(item.label is not None and said == normalize(item.label)), said)

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Accuracy, over all and by category; none without answers."""
        labelled = [each for each in marked if each.item.label is not None]
        if not labelled:
            return []
        return [accuracy("exact match", labelled, is_main=True), *accuracy_by("category", labelled)]


def _read_answers(path: Path, faults: list[str]) -> dict[str, str]:
    found = {}
    for number, line in read_json_lines(path, faults):
        id_, answer = line.get("question_id"), line.get("answer")
        if not isinstance(id_, int | str) or isinstance(id_, bool) or not isinstance(answer, str):
            faults.append(f"{path.name}, line {number}: not a question_id and an answer")
            continue
        found[str(id_)] = answer
    return found
