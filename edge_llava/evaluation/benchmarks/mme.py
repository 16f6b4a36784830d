"""MME: two questions about each image, one with the answer yes and one with no.

Source: MME's calculation.py, and convert_answer_to_mme.py of LLaVA.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.prompts import SHORT
from edge_llava.evaluation.intervals import bootstrap_interval
from edge_llava.home.json_files import read_text

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_POLITE = "Please answer yes or no."
_LABELS = {"yes": "yes", "no": "no"}
_READ = 4  # characters in which yes or no is looked for


class Mme(Usual):
    """MME's questions; the label of an item is "yes" or "no". Ids are LLaVA's, and each belongs to two questions."""

    name, variant = "mme", "perception and cognition are sums of points, not percent"

    def __init__(self, items: Sequence[Item]) -> None:
        """See `read`."""
        self.items = items

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Mme:
        """Reads MME's directory: one directory for each subtask.

        Raises:
            DataError: If it contains no subtask, or files are wrong; all faults at once.
        """
        if len(paths) != 1 or not paths[0].is_dir():
            raise DataError("MME is one directory, with one directory for each subtask.")
        faults, items = list[str](), list[Item]()
        for subtask in (*PERCEPTION, *COGNITION):
            directory = paths[0] / subtask
            labels = directory / "questions_answers_YN"
            for file in sorted((labels if labels.is_dir() else directory).glob("*.txt")):
                items += _read_pair(file, subtask, directory, faults)
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} is not MME:", faults[:20] or ["it has none of the subtasks"]))
        return cls(items)

    def answer_key(self, question_id: str | int, prompt: str) -> str:
        """The subtask, the file's name without its suffix, and the question without what asks for yes or no."""
        return _key(str(question_id), prompt.strip().partition("\n")[0].replace(_POLITE, ""))

    def mark(self, item: Item, text: str) -> Mark:
        """Yes or no as a whole, or within the first four characters; else neither, which is wrong."""
        said = read_answer(text)
        return Mark(float(said == item.label), said, is_unreadable=not said)

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Perception, cognition, and each subtask: 100 x (accuracy + share of images with both answers right)."""
        pairs: dict[str, list[Marked]] = defaultdict(list)
        for each in marked:
            pairs[each.item.picture].append(each)
        groups = {"perception": PERCEPTION, "cognition": COGNITION} | {
            name: (name,) for name in (*PERCEPTION, *COGNITION)
        }
        found = [_figure(name, subtasks, pairs) for name, subtasks in groups.items()]
        return [figure for figure in found if figure is not None]


def read_answer(text: str) -> str:
    """ "yes" or "no"; "" if it is neither."""
    text = text.lower()
    if text in _LABELS:
        return text
    return next((word for word in _LABELS if word in text[:_READ]), "")


def _key(place: str, question: str) -> str:
    parts = PurePosixPath(place)
    return f"{parts.parts[0] if parts.parts else ''}/{parts.stem}\n{' '.join(question.split())}"


def _figure(name: str, subtasks: Sequence[str], pairs: dict[str, list[Marked]]) -> Figure | None:
    chosen = [pair for pair in pairs.values() if pair[0].item.groups["category"] in subtasks]
    if not chosen:
        return None
    parts = np.array([_parts(pair, subtasks) for pair in chosen], np.float64)
    pictures = [pair[0].item.picture for pair in chosen]
    low, high = bootstrap_interval(parts, pictures, _sum_of_scores)
    n = sum(map(len, chosen))
    return Figure(name, _sum_of_scores(parts.sum(0)), n, low, high, is_main=name == "perception", method="bootstrap")


def _parts(pair: Sequence[Marked], subtasks: Sequence[str]) -> list[float]:
    """For each subtask: right answers, questions, images with both right, images."""
    right = [each.mark.points for each in pair]
    own = [sum(right), len(right), float(min(right) == 1), 1.0]
    is_own = [name == pair[0].item.groups["category"] for name in subtasks]
    return [value if is_its else 0.0 for is_its in is_own for value in own]


def _sum_of_scores(sums: NDArray[np.float64]) -> float:
    right, n, both, images = sums.reshape(-1, 4).T
    present = n > 0
    return float(100 * (right[present] / n[present] + both[present] / images[present]).sum())


def _read_pair(file: Path, subtask: str, directory: Path, faults: list[str]) -> list[Item]:
    lines = [line for line in read_text(file).split("\n") if line.strip()]
    fields = [line.rstrip("\r").split("\t") for line in lines]
    if [len(each) for each in fields] != [2, 2] or sorted(each[-1].strip().lower() for each in fields) != ["no", "yes"]:
        faults.append(f"{file}: not two questions, each with a tab and Yes or No, one of each")
        return []
    image = _find_image(directory, file.stem)
    place = f"{subtask}/{image}"
    texts = [" ".join(question.replace(_POLITE, "").split()) for question, _ in fields]
    return [
        Item(place, f"{text}\n{SHORT}", place, label.strip().lower(), {"category": subtask}, join=_key(place, text))
        for text, (_, label) in zip(texts, fields, strict=True)
    ]


def _find_image(directory: Path, stem: str) -> str:
    """The picture's place in its subtask, as LLaVA's file has it; .jpg where there is no file to look at."""
    for place in ("images/", ""):
        for suffix in (".jpg", ".png", ".jpeg"):
            if (directory / f"{place}{stem}{suffix}").is_file():
                return f"{place}{stem}{suffix}"
    return f"{'images/' if (directory / 'questions_answers_YN').is_dir() else ''}{stem}.jpg"
