"""POPE: is there such a thing in the image? Objects that are not there are chosen in three ways.

Source: evaluate.py of POPE and eval_pope.py of LLaVA, which read answers alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy, bootstrapped
from edge_llava.evaluation.benchmarks.prompts import SHORT
from edge_llava.home.json_files import read_json_lines

# What LLaVA's question file adds to the ids of each set.
_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
_N_RANDOM = 2910  # questions of August 2023, with which the published scores were made


class Pope(Usual):
    """POPE's questions; the label of an item is "yes" or "no"."""

    name = "pope"

    def __init__(self, items: Sequence[Item], sets: Sequence[str]) -> None:
        """See `read`."""
        self.items, self._sets = items, tuple(sets)
        n_random = sum(item.groups["category"] == "random" for item in items)
        self.variant = ", ".join(self._sets)
        if n_random:
            self.variant += f"; {n_random:,} random questions"
            self.variant += " as published" if n_random == _N_RANDOM else ", the published scores have 2,910"

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Pope:
        """Reads coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json, or some of them.

        With several, ids are those of LLaVA's question file, in which each set has its own range.

        Raises:
            DataError: If a file cannot be read, is none of these, or contains wrong lines; all faults at once.
        """
        by_set: dict[str, Path] = {}
        for path in paths:
            found = [name for name in _OFFSETS if name in path.name]
            if len(found) != 1 or found[0] in by_set:
                raise DataError(
                    f"{path}: POPE's label files are called coco_pope_random.json, .._popular, .._adversarial."
                )
            by_set[found[0]] = path
        if not by_set:
            raise DataError("POPE needs one to three label files, such as coco_pope_random.json.")
        items: list[Item] = []
        for name, path in by_set.items():
            items += _read_set(path, name, _OFFSETS[name] if len(by_set) > 1 else 0)
        return cls(items, list(by_set))

    def mark(self, item: Item, text: str) -> Mark:
        """Reads no where the first sentence has the word; everything else is yes, also an empty text."""
        said = read_answer(text)
        words = text.lower().replace(".", " ").replace(",", " ").split()
        return Mark(float(said == item.label), said, is_unreadable=not {"yes", "no", "not"} & set(words))

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """The mean of the sets' F1, and of each set F1, accuracy, precision, recall and the share of yes."""
        parts = {name: [each for each in marked if each.item.groups["category"] == name] for name in self._sets}
        parts = {name: part for name, part in parts.items() if part}
        figures = []
        if len(parts) > 1:
            figures.append(bootstrapped("F1, mean of the sets", marked, self._counts_of_sets, _mean_f1, is_main=True))
        for name, part in parts.items():
            counts = Counter(map(_outcome, part))
            answered = [each.mark.reading for each in part if each.text is not None]
            figures += [
                bootstrapped(f"F1, {name}", part, _counts, _mean_f1, is_main=len(parts) == 1),
                accuracy(f"accuracy, {name}", part),
                Figure(f"precision, {name}", _percent(counts["TP"], counts["TP"] + counts["FP"]), len(part)),
                Figure(f"recall, {name}", _percent(counts["TP"], counts["TP"] + counts["FN"]), len(part)),
                Figure(f"answers yes, {name}", _percent(answered.count("yes"), len(answered)), len(answered)),
            ]
        return figures

    def _counts_of_sets(self, marked: Marked) -> list[int]:
        """The counts of its own set, and none of the others'."""
        own = marked.item.groups["category"]
        return [count if name == own else 0 for name in self._sets for count in _counts(marked)]


def read_answer(text: str) -> str:
    """ "no" if the text before the first full stop has the word No, no or not, else "yes"."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _read_set(path: Path, name: str, offset: int) -> list[Item]:
    faults: list[str] = []
    items = []
    for number, line in read_json_lines(path, faults):
        id_, image, text, label = (line.get(key) for key in ("question_id", "image", "text", "label"))
        if not (
            isinstance(id_, int)
            and not isinstance(id_, bool)
            and isinstance(image, str)
            and isinstance(text, str)
            and label in ("yes", "no")
        ):
            faults.append(f"line {number} is not a question with question_id, image, text and label yes or no")
            continue
        items.append(Item(id_ + offset, f"{text}\n{SHORT}", image, label, {"category": name}))
    doubled = [str(id_) for id_, n in Counter(item.question_id for item in items).items() if n > 1]
    faults += [f"question_id {', '.join(doubled[:5])} occurs more than once"] if doubled else []
    if faults or not items:
        raise DataError(list_faults(f"{path} is no label file of POPE:", faults[:20] or ["it is empty"]))
    return items


def _outcome(marked: Marked) -> str:
    """TP, FP, TN or FN; what has no answer counts as the wrong one."""
    label = marked.item.label
    said = marked.mark.reading if marked.text is not None else "no" if label == "yes" else "yes"
    return f"{'T' if said == label else 'F'}{'P' if said == 'yes' else 'N'}"


def _counts(marked: Marked) -> list[int]:
    """True positives, and what F1 divides twice their number by."""
    outcome = _outcome(marked)
    return [outcome == "TP", 2 * (outcome == "TP") + (outcome in ("FP", "FN"))]


def _mean_f1(counts: NDArray[np.float64]) -> float | None:
    """The mean over the sets of 100 x 2 TP / (2 TP + FP + FN); None where one is not defined."""
    right, all_ = counts.reshape(-1, 2).T
    return float((200 * right / all_).mean()) if all_.all() else None


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
