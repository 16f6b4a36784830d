"""GQA's balanced questions about scene graphs.

Source: GQA's eval.py, and convert_gqa_for_eval.py of LLaVA.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy, accuracy_by
from edge_llava.evaluation.benchmarks.prompts import SHORT
from edge_llava.home.json_files import read_json


class Gqa(Usual):
    """GQA's questions; the label of an item is the answer."""

    name = "gqa"

    def __init__(self, items: Sequence[Item], variant: str) -> None:
        """See `read`."""
        self.items, self.variant = items, variant

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Gqa:
        """Reads testdev_balanced_questions.json; of other files the balanced questions.

        Raises:
            DataError: If the file cannot be read or is wrong; all faults at once.
        """
        if len(paths) != 1:
            raise DataError("GQA needs one file, testdev_balanced_questions.json.")
        data, faults, items = read_json(paths[0]), list[str](), []
        if not isinstance(data, dict):
            raise DataError(f"{paths[0]} does not contain an object of questions by id.")
        for id_, entry in data.items():
            fields = [entry.get(key) if isinstance(entry, dict) else None for key in ("question", "imageId", "answer")]
            if not all(isinstance(field, str) for field in fields):
                faults.append(f"{id_}: not a question, an imageId and an answer")
            elif entry.get("isBalanced", True):
                question, image, answer = fields
                types = entry.get("types") if isinstance(entry.get("types"), dict) else {}
                groups = {key: str(types[key]) for key in ("structural", "semantic") if types.get(key)}
                items.append(Item(id_, f"{question}\n{SHORT}", f"{image}.jpg", answer, groups))
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} is no file of GQA:", faults[:20] or ["no balanced question"]))
        return cls(items, paths[0].stem.removesuffix("_questions").replace("_", " "))

    def mark(self, item: Item, text: str) -> Mark:
        """Right if it is the answer, in lower case and without full stops at its end."""
        said = text.rstrip(".").lower()
        return Mark(float(said == item.label), said)

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Accuracy, of open and binary questions, and by type."""
        is_open = [each.item.groups.get("structural") == "query" for each in marked]
        parts = {
            "open": [each for each, open_ in zip(marked, is_open, strict=True) if open_],
            "binary": [each for each, open_ in zip(marked, is_open, strict=True) if not open_],
        }
        return [
            accuracy("accuracy", marked, is_main=True),
            *(accuracy(name, part) for name, part in parts.items() if part),
            *accuracy_by("structural", marked),
            *accuracy_by("semantic", marked),
        ]
