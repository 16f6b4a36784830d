"""SEED-Bench: multiple choice about images, and about the middle frame of videos.

Source: SEED-Bench's and LLaVA's evaluation, which compare the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy, accuracy_by
from edge_llava.evaluation.benchmarks.prompts import LETTER, list_options
from edge_llava.home.json_files import read_json

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


class SeedBench(Usual):
    """SEED-Bench's questions; the label of an item is a letter."""

    name, variant = "seed", "all questions; tables often show images alone"

    def __init__(self, items: Sequence[Item]) -> None:
        """See `read`."""
        self.items = items

    @classmethod
    def read(cls, paths: Sequence[Path]) -> SeedBench:
        """Reads SEED-Bench.json.

        Raises:
            DataError: If the file cannot be read or is wrong; all faults at once.
        """
        if len(paths) != 1:
            raise DataError("SEED-Bench needs one file, SEED-Bench.json.")
        data, faults, items = read_json(paths[0]), list[str](), []
        types = data.get("question_type") if isinstance(data, dict) else None
        questions = data.get("questions") if isinstance(data, dict) else None
        if not isinstance(questions, list) or not isinstance(types, dict):
            raise DataError(f"{paths[0]} does not contain questions and question_type.")
        names = {number: name for name, number in types.items() if isinstance(number, int)}
        labels: dict[str, list[str]] = {}
        for number, entry in enumerate(questions):
            keys = ("question", *_CHOICES, "data_id", "answer")
            texts = [entry.get(key) if isinstance(entry, dict) else None for key in keys]
            id_ = entry.get("question_id") if isinstance(entry, dict) else None
            if not all(isinstance(text, str) for text in texts) or not isinstance(id_, int | str):
                faults.append(f"questions[{number}]: not a question_id, a question, four choices, a data_id, an answer")
                continue
            question, *choices, place, answer = map(str, texts)
            seen = labels.setdefault(str(id_), [])
            if answer not in ("A", "B", "C", "D") or any(label != answer for label in seen):
                faults.append(f"questions[{number}]: the answer is not A to D, or another than before for {id_}")
                continue
            seen.append(answer)
            type_ = entry.get("question_type_id")
            groups = {
                "data": "video" if entry.get("data_type") == "video" else "image",
                "type": str(names.get(type_, "unknown")) if isinstance(type_, int) else "unknown",
            }
            text = f"{question}\n{list_options(choices)}\n{LETTER}"
            items.append(Item(str(id_), text, place, answer, groups, occurrence=len(seen)))
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} is no file of SEED-Bench:", faults[:20] or ["no question"]))
        return cls(items)

    def mark(self, item: Item, text: str) -> Mark:
        """Right if the text is the letter."""
        return Mark(float(text == item.label), text if text in "ABCD" else "", text not in ("A", "B", "C", "D"))

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Accuracy of all questions, of images, of videos, and by type."""
        return [accuracy("all", marked, is_main=True), *accuracy_by("data", marked), *accuracy_by("type", marked)]
