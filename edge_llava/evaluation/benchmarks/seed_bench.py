"""SEED-Bench: multiple choice about images, and about the middle frame of videos.

Source: SEED-Bench's and LLaVA's evaluation, which compare the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, ImageFiles, Item, Mark, Marked
from edge_llava.evaluation.benchmarks.figures import accuracy, accuracy_by
from edge_llava.evaluation.benchmarks.prompts import LETTER, list_options
from edge_llava.home.json_files import read_json

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


class SeedBench(ImageFiles):
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
        names = {number: name for name, number in types.items()}
        for number, entry in enumerate(questions):
            texts = [entry.get(key) if isinstance(entry, dict) else None for key in ("question", *_CHOICES, "data_id")]
            if not all(isinstance(text, str) for text in texts) or entry.get("answer") not in ("A", "B", "C", "D"):
                faults.append(f"questions[{number}]: not a question, four choices, a data_id and an answer A to D")
                continue
            question, *choices, place = texts
            kind = "video" if entry.get("data_type") == "video" else "image"
            groups = {"data": kind, "type": str(names.get(entry.get("question_type_id"), "unknown"))}
            text = f"{question}\n{list_options([str(choice) for choice in choices])}\n{LETTER}"
            items.append(Item(str(entry.get("question_id")), text, str(place), entry["answer"], groups))
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} is no file of SEED-Bench:", faults[:20] or ["no question"]))
        return cls(items)

    def mark(self, item: Item, text: str) -> Mark:
        """Right if the text is the letter."""
        return Mark(float(text == item.label), text if text in "ABCD" else "", text not in ("A", "B", "C", "D"))

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Accuracy of all questions, of images, of videos, and by type."""
        return [accuracy("all", marked, is_main=True), *accuracy_by("data", marked), *accuracy_by("type", marked)]
