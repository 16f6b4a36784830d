"""LLaVA-Bench: open questions about COCO's images, or in the wild; a judge compares answers with references.

Source: eval_gpt_review.py, eval_gpt_review_bench.py and summarize_gpt_review.py of LLaVA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.judged import PREFIX, JudgeDefaults, Request, Review
from edge_llava.evaluation.benchmarks.reviews import read_published, relative_scores
from edge_llava.evaluation.benchmarks.source import Collection
from edge_llava.home.json_files import read_json_lines

_COCO_PREFIX = "COCO_val2014_"
_SYSTEM = "You check the quality of answers, helpfully and precisely."
# What the context is, by collection; the rest of our wording is the same for all categories.
_CONTEXTS = {
    "coco": (
        "a visual assistant that looks at an image. For you, the image is described by five sentences, and by the "
        "boxes of objects in it: each with its category and the corners (x1, y1, x2, y2), from 0 to 1, from the left "
        "and from the top"
    ),
    "wild": "a visual assistant that looks at an image. For you, the image is described by a few sentences",
}
_RULE = (
    "Two answers to a question for {context}. Rate how helpful, relevant, accurate and detailed each of them is, and "
    "give each one overall score from 1 to 10; higher is better. The first line of your reply contains the two scores "
    "of Assistant 1 and Assistant 2 alone, separated by a space. Explain them in the lines that follow. Let neither "
    "the order of the answers nor their length decide."
)


@dataclass(frozen=True)
class Files:
    """The files of a collection, in its directory."""

    questions: str
    references: str
    contexts: str


FILES: Mapping[Collection, Files] = {
    "coco": Files("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl"),
    "wild": Files("questions.jsonl", "answers_gpt4.jsonl", "context.jsonl"),
}


class LlavaBench(Usual):
    """Questions with references and descriptions of their images; the label of an item is its reference."""

    name = "llava-bench"
    judge_defaults = JudgeDefaults(temperature=0.2, max_tokens=1024, n_tries=3, warmer=0.0, typical_tokens=200)

    def __init__(self, collection: Collection, items: Sequence[Item], contexts: Mapping[str, str]) -> None:
        """See `read`."""
        self.items, self.variant = items, "COCO" if collection == "coco" else "in the wild"
        self.is_of_1_5 = collection == "wild"
        self._collection, self._contexts = collection, contexts

    @classmethod
    def read(cls, paths: Sequence[Path], collection: Collection | None = None) -> LlavaBench:
        """Reads a directory with questions, references and contexts under their published names.

        Raises:
            DataError: If files are missing, cannot be read, or are wrong; all faults at once.
        """
        if len(paths) != 1 or not paths[0].is_dir():
            raise DataError("LLaVA-Bench is one directory, with its questions, references and contexts.")
        found = [name for name, files in FILES.items() if (paths[0] / files.questions).is_file()]
        if collection is None and len(found) != 1:
            names = " or ".join(files.questions for files in FILES.values())
            raise DataError(f"{paths[0]} must contain {names}; if it contains both, say which with --set.")
        chosen: Collection = found[0] if collection is None else collection
        places, faults = FILES[chosen], list[str]()
        references = _read_texts(paths[0] / places.references, "question_id", "text", faults)
        contexts = _read_contexts(paths[0] / places.contexts, faults)
        items = []
        for number, line in read_json_lines(paths[0] / places.questions, faults):
            id_, text, image, category = (line.get(key) for key in ("question_id", "text", "image", "category"))
            is_id = isinstance(id_, int | str) and not isinstance(id_, bool)
            if not is_id or not all(isinstance(value, str) for value in (text, image, category)):
                faults.append(f"{places.questions}, line {number}: not a question_id, an image, a text and a category")
            elif str(id_) not in references or _bare(str(image)) not in contexts:
                faults.append(f"{places.questions}, line {number}: no reference, or no context of {image}")
            else:
                groups = {"category": str(category).removeprefix(PREFIX)}
                items.append(Item(id_ or 0, str(text), str(image), references[str(id_)], groups))
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} cannot be used:", faults[:20] or ["it has no questions"]))
        return cls(chosen, items, contexts)

    def find_image(self, name: str, directory: Path) -> Path:
        """The file of this name, or of the name that COCO gives it."""
        other = directory / f"{_COCO_PREFIX}{name}"
        return other if not (directory / name).is_file() and other.is_file() else directory / name

    def mark(self, item: Item, text: str) -> Mark:
        """Nothing: answers are judged."""
        return Mark(0.0, "")

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Nothing: answers are judged."""
        return []

    def request(self, item: Item, answer: str, wording: Mapping[str, str] | None, *, swapped: bool) -> Request:
        """See `Judged.request`; `wording` is the rule of each category."""
        category = item.groups["category"]
        if wording is None:
            rule = _RULE.format(context=_CONTEXTS[self._collection])
        else:
            names = [category, f"{PREFIX}{category}"]
            names.sort(key=len, reverse=self._collection == "wild")  # a file may have both
            rule = next(wording[name] for name in names if name in wording)
        first, second = (answer, item.label) if swapped else (item.label, answer)
        blocks = [
            self._contexts[_bare(str(item.image))],
            f"[Question]\n{item.text}",
            f"[Assistant 1]\n{first}",
            "[End of Assistant 1]",
            f"[Assistant 2]\n{second}",
            "[End of Assistant 2]",
            f"[System]\n{rule}",
        ]
        content = "".join(f"{block}\n\n" for block in blocks)
        return Request(({"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}))

    def read_reply(self, text: str, *, swapped: bool) -> tuple[float, float] | None:
        """The ratings of reference and answer."""
        return read_published(text, swapped=swapped)

    def judged_figures(self, judgings: Sequence[Sequence[Review]], items: Sequence[Item]) -> list[Figure]:
        """Relative scores of what was judged."""
        return relative_scores(judgings, {str(item.question_id): item.picture for item in items})


def _bare(image: str) -> str:
    return image.removeprefix(_COCO_PREFIX)


def _read_texts(path: Path, id_key: str, text_key: str, faults: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in read_json_lines(path, faults):
        id_, text = line.get(id_key), line.get(text_key)
        if not isinstance(id_, int | str) or isinstance(id_, bool) or not isinstance(text, str):
            faults.append(f"{path.name}, line {number}: not a {id_key} and a {text_key}")
        elif str(id_) in found:
            faults.append(f"{path.name}, line {number}: {id_key} {id_} occurs more than once")
        else:
            found[str(id_)] = text
    return found


def _read_contexts(path: Path, faults: list[str]) -> dict[str, str]:
    """What the judge is told about each image, by its name."""
    found = {}
    for number, line in read_json_lines(path, faults):
        image, captions, instances = line.get("image"), line.get("captions", line.get("caption")), line.get("instances")
        captions = [captions] if isinstance(captions, str) else captions
        boxes = [_box(each) for each in instances] if isinstance(instances, list) else []
        is_list = isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)
        if not isinstance(image, str) or not is_list or not captions or None in boxes:
            faults.append(f"{path.name}, line {number}: not an image, its captions, and boxes of 4 numbers if any")
            continue
        blocks = ["\n".join(["[Context]", *captions])]
        if instances is not None:
            blocks.append("\n".join(str(box) for box in boxes))
        found[_bare(image)] = "\n\n".join(blocks)
    return found


def _box(value: Any) -> str | None:
    """One line: "dog: [0.1, 0.25, 0.9, 0.8]"."""
    category, corners = (value.get(key) if isinstance(value, dict) else None for key in ("category", "bbox"))
    is_box = isinstance(corners, list) and len(corners) == 4
    if not isinstance(category, str) or not is_box or not all(isinstance(c, int | float) for c in corners or ()):
        return None
    return f"{category}: {corners!r}"
