"""VQA against ten people's answers: TextVQA, VQAv2 and VizWiz, as far as their labels are public."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy_by, mean_points
from edge_llava.evaluation.benchmarks.prompts import SHORT, UNANSWERABLE
from edge_llava.evaluation.benchmarks.vqa_text import N_ANSWERS, normalize, textvqa_accuracy, vqav2_accuracy
from edge_llava.home.json_files import read_json, read_json_lines

_OCR = "Reference OCR token:"


class Vqa(Usual):
    """One of the three; the label of an item is the answers of ten people, or None where they are secret."""

    def __init__(
        self,
        name: str,
        items: Sequence[Item],
        variant: str,
        rule: Callable[[str, Sequence[str]], float],
        kinds: Sequence[str] = (),
        upload_id: str = "",
    ) -> None:
        """
        Args:
            name: Of the benchmark.
            items: The questions.
            variant: What else a score depends on.
            rule: rule(text, ten answers) -> 0 to 1.
            kinds: Groups of which there are figures.
            upload_id: What the server calls the id of a question; "": it needs no upload.
        """
        self.name, self.items, self.variant = name, items, variant
        self._rule, self._kinds, self._upload_id = rule, kinds, upload_id

    def mark(self, item: Item, text: str) -> Mark:
        """The text as it is compared, and the share of agreement."""
        return Mark(0.0 if item.label is None else self._rule(text, item.label), normalize(text))

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """VQA accuracy, over all and by group; nothing where answers are secret."""
        if any(each.item.label is None for each in marked):
            return []
        figures = [mean_points("VQA accuracy", marked, is_main=True)]
        return [*figures, *(figure for kind in self._kinds for figure in accuracy_by(kind, marked, mean_points))]

    def upload(self, answers: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """Answers in TextVQA's form, as LLaVA's were; "" for what is missing."""
        if not self._upload_id:
            return None
        return [
            {self._upload_id: item.question_id, "answer": normalize(answers.get(item.key, ""))} for item in self.items
        ]


class TextVqa(Vqa):
    """Ids are those of pictures: the first line of the prompt is a part of the key."""

    def answer_key(self, question_id: str | int, prompt: str) -> str:
        """The picture and the question in lower case.

        Raises:
            DataError: If the answer was asked with OCR tokens, and the benchmark is without.
        """
        if _OCR in prompt and not any(_OCR in item.text for item in self.items[:1]):
            raise DataError("the answers were asked with OCR tokens: name LLaVA's question file (.jsonl) as well.")
        return _textvqa_key(str(question_id), prompt.strip().partition("\n")[0])


def _textvqa_key(image: str, question: str) -> str:
    return f"{image}\n{' '.join(question.lower().split())}"


def read_textvqa(paths: Sequence[Path]) -> Vqa:
    """Reads TextVQA: the annotations (TextVQA_0.5.1_val.json) and, if given, LLaVA's question file with OCR tokens.

    In both the id is the picture's, so that an answer also has to name its question.

    Raises:
        DataError: If files cannot be read or are wrong; all faults at once.
    """
    labels = next((path for path in paths if path.suffix == ".json"), None)
    asked = next((path for path in paths if path.suffix == ".jsonl"), None)
    if labels is None or len(paths) != (1 if asked is None else 2):
        raise DataError("TextVQA needs its annotations (.json) and may have LLaVA's question file (.jsonl) too.")
    faults: list[str] = []
    texts = {} if asked is None else _read_questions(asked, faults)
    items = []
    for number, entry in enumerate(_entries(read_json(labels), "data", labels)):
        question, image, answers = entry.get("question"), entry.get("image_id"), entry.get("answers")
        if not isinstance(question, str) or not isinstance(image, str) or not _are_ten(answers):
            faults.append(f"data[{number}]: not a question, an image_id and {N_ANSWERS} answers")
            continue
        text = texts.get((image, question.lower()), None if asked else f"{question.capitalize()}\n{SHORT}")
        if text is None:
            faults.append(f"data[{number}]: {asked} does not ask {question!r} of {image}")
            continue
        items.append(
            Item(
                image,
                text,
                f"{image}.jpg",
                [str(answer) for answer in answers or ()],
                join=_textvqa_key(image, question),
            )
        )
    _refuse(labels, faults, items)
    variant = "val, with OCR tokens" if asked else "val, without OCR tokens"
    return TextVqa("textvqa", items, variant, textvqa_accuracy)


def read_vqav2(paths: Sequence[Path]) -> Vqa:
    """Reads VQAv2: questions and annotations of val2014, in either order, or the questions of a test set.

    Raises:
        DataError: If files cannot be read or are wrong; all faults at once.
    """
    if len(paths) == 1:
        return _read_vqav2_test(paths[0])
    if len(paths) != 2:
        raise DataError("VQAv2 needs questions and annotations of its validation split, or a test set's questions.")
    values: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        data = read_json(path)
        found = [key for key in ("questions", "annotations") if isinstance(data, dict) and key in data]
        for key in found[-1:]:
            values[key] = path, data
    if len(values) != 2:
        raise DataError(f"{paths[0]} and {paths[1]} are not questions and annotations.")
    faults: list[str] = []
    questions, annotations = (_entries(data, key, path) for key, (path, data) in sorted(values.items(), reverse=True))
    asked = {entry["question_id"]: entry for entry in questions if isinstance(entry.get("question_id"), int)}
    items = []
    for number, entry in enumerate(annotations):
        id_, answers = entry.get("question_id"), _answer_texts(entry.get("answers"))
        question = asked.get(id_) if isinstance(id_, int) else None
        text, image = (None, None) if question is None else (question.get("question"), question.get("image_id"))
        if not isinstance(text, str) or not isinstance(image, int) or answers is None or not _are_ten(answers):
            faults.append(f"annotations[{number}]: no such question, or not {N_ANSWERS} answers")
            continue
        groups = {key.replace("_", " "): str(entry[key]) for key in ("answer_type", "question_type") if key in entry}
        items.append(Item(int(id_ or 0), f"{text}\n{SHORT}", f"COCO_val2014_{image:012d}.jpg", answers, groups))
    _refuse(values["annotations"][0], faults, items)
    return Vqa("vqav2", items, "val2014", _vqav2_rule, ("answer type", "question type"))


def _read_vqav2_test(path: Path) -> Vqa:
    data = read_json(path)
    subtype = str(data.get("data_subtype", "")) if isinstance(data, dict) else ""
    if not subtype.startswith("test"):
        raise DataError(f"{path} are not the questions of a test set; those of val2014 need their annotations as well.")
    faults: list[str] = []
    items = []
    for number, entry in enumerate(_entries(data, "questions", path)):
        id_, text, image = entry.get("question_id"), entry.get("question"), entry.get("image_id")
        if not isinstance(id_, int) or not isinstance(text, str) or not isinstance(image, int):
            faults.append(f"questions[{number}]: not a question_id, a question and an image_id")
            continue
        items.append(Item(id_, f"{text}\n{SHORT}", f"COCO_test2015_{image:012d}.jpg", None))
    _refuse(path, faults, items)
    return Vqa("vqav2", items, f"{subtype}, answers are secret", _vqav2_rule, upload_id="question_id")


def read_vizwiz(paths: Sequence[Path]) -> Vqa:
    """Reads VizWiz's val.json, or test.json, whose answers are secret. The id of a question is its image.

    Raises:
        DataError: If the file cannot be read or is wrong; all faults at once.
    """
    if len(paths) != 1:
        raise DataError("VizWiz needs its val.json or test.json.")
    faults: list[str] = []
    items = []
    for number, entry in enumerate(_entries(read_json(paths[0]), None, paths[0])):
        image, question, given = entry.get("image"), entry.get("question"), entry.get("answers")
        answers = _answer_texts(given)
        is_labelled = given is not None
        if not isinstance(image, str) or not isinstance(question, str) or (is_labelled and not _are_ten(answers)):
            faults.append(f"entry {number}: not an image, a question and {N_ANSWERS} answers")
            continue
        groups = {"answerable": "yes" if entry.get("answerable", 1) else "no"} if is_labelled else {}
        label = [str(answer) for answer in answers or ()] if is_labelled else None
        items.append(Item(image, f"{question}\n{UNANSWERABLE}", image, label, groups))
    labelled = {item.label is not None for item in items}
    faults += ["some questions have answers, and some have none"] if len(labelled) > 1 else []
    _refuse(paths[0], faults, items)
    if not labelled.pop():
        return Vqa("vizwiz", items, "test, answers are secret", _vqav2_rule, upload_id="image")
    return Vqa("vizwiz", items, "val", _vqav2_rule, ("answerable",))


def _vqav2_rule(text: str, answers: Sequence[str]) -> float:
    """LLaVA's answers went through TextVQA's form before they were uploaded, and so do ours."""
    return vqav2_accuracy(normalize(text), answers)


def _read_questions(path: Path, faults: list[str]) -> dict[tuple[str, str], str]:
    """LLaVA's prompts by image id and lower-case question."""
    found = {}
    for number, line in read_json_lines(path, faults):
        id_, text = line.get("question_id"), line.get("text")
        if not isinstance(id_, str) or not isinstance(text, str):
            faults.append(f"{path.name}, line {number}: question_id or text is not text")
            continue
        found[id_, text.partition("\n")[0].lower()] = text
    if not any(_OCR in text for text in found.values()):
        faults.append(f"{path.name} has no line {_OCR!r}")
    return found


def _entries(data: Any, key: str | None, path: Path) -> list[Mapping[str, Any]]:
    """The objects of a list, which may be under a key."""
    found = data.get(key) if key is not None and isinstance(data, dict) else data
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{path} does not contain a list of objects{f' under {key!r}' if key else ''}.")
    return found


def _answer_texts(given: Any) -> list[Any] | None:
    """The texts in a list of {"answer": text}; None if it is none."""
    is_list = isinstance(given, list) and all(isinstance(each, dict) for each in given)
    return [each.get("answer") for each in given] if is_list else None


def _are_ten(answers: Any) -> bool:
    return isinstance(answers, list) and len(answers) == N_ANSWERS and all(isinstance(a, str) for a in answers)


def _refuse(path: Path, faults: Sequence[str], items: Sequence[Item]) -> None:
    if faults:
        raise DataError(list_faults(f"{path} contains questions that cannot be used:", list(faults[:20])))
    if not items:
        raise DataError(f"{path} contains no questions.")
