"""ScienceQA's problems: reading them, asking them in every published form, and reading the letter of an answer.

Source: base_prompt.py, convert_sqa_to_llava.py and eval_science_qa.py of ScienceQA and LLaVA.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.prompts import LETTER, LETTERS, list_options
from edge_llava.home.json_files import read_json
from edge_llava.home.unicode_text import is_unicode

INPUTS = ("QCM", "CQM", "QCML", "QCME", "QCMLE", "QCLM", "QCEM", "QCLEM")
OUTPUTS = ("A", "AL", "AE", "ALE", "AEL", "LA", "EA", "LEA", "ELA", "LEPA")
FORMATS = ("letter", *(f"{asked}-{said}" for asked in INPUTS for said in OUTPUTS))
_ANSWER = re.compile(r"The answer is ([A-Z]).", re.DOTALL)
_BECAUSE = "BECAUSE:"
_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: Of the problem.
        question: Its text.
        choices: 2 to 5.
        answer: Index of the right one.
        hint, lecture, solution: May be empty.
        image: File name of its picture, or None.
        split: Where it belongs.
        groups: subject, grade and topic.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    lecture: str
    solution: str
    image: str | None
    split: str
    groups: dict[str, str]

    @property
    def image_place(self) -> str | None:
        """The picture's file relative to the images of its split, as in LLaVA's files: "7/image.png"."""
        return None if self.image is None else f"{self.id}/{self.image}"


def read_problems(directory: Path, split: str) -> list[Problem]:
    """Reads the problems of a split from problems.json and pid_splits.json.

    Raises:
        DataError: If a file cannot be read, the split does not exist, or problems are wrong; all faults at once.
    """
    problems, splits = read_json(directory / "problems.json"), read_json(directory / "pid_splits.json")
    if not isinstance(problems, dict) or not isinstance(splits, dict):
        raise DataError(f"{directory}: problems.json and pid_splits.json must each contain an object.")
    if not isinstance(splits.get(split, []), list):
        raise DataError(f"{directory / 'pid_splits.json'}: {split} is not a list of ids.")
    if split not in splits:
        raise DataError(f"{directory / 'pid_splits.json'} has no split {split!r}, only {', '.join(map(str, splits))}.")
    faults: list[str] = []
    found = [_read(str(id_), problems.get(str(id_)), split, faults) for id_ in splits[split]]
    if faults:
        shown = [*faults[:_SHOWN], *([f"and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else [])]
        raise DataError(list_faults(f"{directory / 'problems.json'} contains problems that cannot be used:", shown))
    return [problem for problem in found if problem is not None]


def read_problems_by_id(directory: Path, ids: Sequence[str]) -> dict[str, Problem]:
    """Reads problems of any split from problems.json.

    Raises:
        DataError: If it cannot be read, or problems are missing or wrong; all faults at once.
    """
    path, faults = directory / "problems.json", list[str]()
    problems = read_json(path)
    if not isinstance(problems, dict):
        raise DataError(f"{path} does not contain an object.")
    found = [_read(id_, problems.get(id_), "", faults) for id_ in dict.fromkeys(ids)]
    if faults:
        raise DataError(list_faults(f"{path} contains problems that cannot be used:", faults[:_SHOWN]))
    return {problem.id: problem for problem in found if problem is not None}


def ask(problem: Problem, form: str) -> str:
    """What is asked, in one of FORMATS, without the marker of an image; 1.5's published scores are of "letter"."""
    if form == "letter":
        return f"{letter_question(problem)}\n{LETTER}"
    asked = _input(problem, form.partition("-")[0])
    return asked.replace("Question: ", "") if asked.startswith("Question: ") else asked


def tell(problem: Problem, form: str) -> str:
    """What the model is trained to answer, in one of FORMATS."""
    if form == "letter":
        return LETTERS[problem.answer]
    said = _output(problem, form.partition("-")[2])
    return said.replace("Answer: ", "") if said.startswith("Answer: ") else said


def letter_question(problem: Problem) -> str:
    """Hint, question and options, as in LLaVA-1.5's question file."""
    context = f"Context: {problem.hint}\n" if problem.hint else ""
    return f"{context}{problem.question}\n{list_options(list(problem.choices))}".replace("  ", " ").strip()


def read_letter(text: str) -> int | None:
    """The index of the letter that an answer names; None: it names none.

    It may be beyond the choices, and then is wrong.
    """
    if text in LETTERS and len(text) == 1:
        return LETTERS.index(text)
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return LETTERS.index(text[0])
    found = _ANSWER.findall(text)
    return ord(found[0]) - ord("A") if len(found) == 1 else None


def _read(id_: str, value: Any, split: str, faults: list[str]) -> Problem | None:
    if not isinstance(value, dict):
        faults.append(f"{id_} is missing")
        return None
    choices, answer, image = value.get("choices"), value.get("answer"), value.get("image")
    texts = {
        key: value.get(key) or "" for key in ("question", "hint", "lecture", "solution", "subject", "grade", "topic")
    }
    own = [
        f"{id_}: {key} is not text" for key, text in texts.items() if not isinstance(text, str) or not is_unicode(text)
    ]
    if not (
        isinstance(choices, list) and 2 <= len(choices) <= len(LETTERS) and all(isinstance(c, str) for c in choices)
    ):
        own.append(f"{id_}: choices are not 2 to 5 texts")
    elif not (isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices)):
        own.append(f"{id_}: answer is not the index of a choice")
    if image is not None and not isinstance(image, str):
        own.append(f"{id_}: image is neither a file name nor null")
    if own:
        faults += own
        return None
    groups = {key: texts[key] for key in ("subject", "grade", "topic") if texts[key]}
    return Problem(
        id_,
        texts["question"],
        tuple(choices or ()),
        int(answer or 0),
        texts["hint"],
        texts["lecture"],
        texts["solution"],
        image,
        split,
        groups,
    )


def _input(problem: Problem, parts: str) -> str:
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False))
    lines = {
        "Q": f"Question: {problem.question}",
        "C": f"Context: {problem.hint or 'N/A'}",
        "M": f"Options: {options}",
    }
    because = " ".join({"L": problem.lecture, "E": problem.solution}[part] for part in parts if part in "LE")
    order = [part for part in parts if part in lines]
    found = [lines[part] for part in order]
    if set(parts) & set("LE"):
        at_end = parts[-1] in "LE"
        found.insert(len(found) if at_end else order.index("M"), f"{_BECAUSE} {because}")
    return _tidy("\n".join(found))


def _output(problem: Problem, parts: str) -> str:
    answer, lecture, solution = LETTERS[problem.answer], problem.lecture, problem.solution
    if parts == "LEPA":
        lines = [f"LECTURE: {lecture}"] if lecture.strip() else []
        lines += [f"SOLUTION: {solution}"] if solution.strip() else []
        return _tidy("\n".join([*lines, "###", f"ANSWER: {answer}."]))
    said = f"The answer is {answer}."
    if parts == "A":
        return f"Answer: {said}"
    if parts[0] == "A":
        # the source exchanges the two where there is only one
        because = {"AL": solution, "AE": lecture, "ALE": f"{lecture} {solution}", "AEL": f"{solution} {lecture}"}[parts]
        return _tidy(f"Answer: {said} {_BECAUSE} {because}")
    reasons = " ".join({"L": lecture, "E": solution}[part] for part in parts[:-1])
    return _tidy(f"Answer: {reasons} {said}")


def _tidy(text: str) -> str:
    text = text.replace("  ", " ").strip()
    return text.removesuffix(_BECAUSE).strip() if text.endswith(_BECAUSE) else text
