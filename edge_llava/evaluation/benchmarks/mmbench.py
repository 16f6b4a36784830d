"""MMBench: multiple choice, each question asked with its options in every rotation.

Source: MMBench's files and server; LLaVA's model_vqa_mmbench.py.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked, Usual
from edge_llava.evaluation.benchmarks.figures import accuracy, accuracy_by, mean_points
from edge_llava.evaluation.benchmarks.prompts import LETTER, LETTER_IN_CHINESE, list_options
from edge_llava.home.regular_file import open_regular

_KINDS = ("category", "l2-category")
_LETTERS = "ABCD"
_INDEX_DIGITS = 16
_ROUND = 1_000_000  # what a rotation adds to an index
_NOTHING = ("", "nan", "none")
_SHORT_TEXT = 3  # words in which a lone letter is an answer


class MmBench(Usual):
    """MMBench's rows; the label of an item is (letter, options)."""

    def __init__(self, name: str, items: Sequence[Item], variant: str, images: Mapping[str, str]) -> None:
        """See `read`."""
        self.name, self.items, self.variant, self._images = name, items, variant, images

    @classmethod
    def read(cls, paths: Sequence[Path], *, circular: bool = False, in_chinese: bool = False) -> MmBench:
        """Reads a TSV file with answers, such as mmbench_dev_20230712.tsv.

        Args:
            paths: The file.
            circular: Make the rotations of a file that has none.
            in_chinese: Ask for the letter in Chinese.

        Raises:
            DataError: If the file cannot be read, has no answers, or rows are wrong; all faults at once.
        """
        if len(paths) != 1:
            raise DataError("MMBench needs one TSV file.")
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images are in the cells
        faults, is_rotated = list[str](), False
        items, images, tail = list[Item](), dict[str, str](), LETTER_IN_CHINESE if in_chinese else LETTER
        for number, row in enumerate(_read_rows(paths[0]), 2):
            question = _read_row(row, number, faults)
            if question is not None:
                items += [question.item(n, tail) for n in range(len(question.options) if circular else 1)]
                base = str(question.index % _ROUND)  # rotations share the image, and may not repeat it
                images[base] = images.get(base) or row.get("image") or ""
                is_rotated = is_rotated or question.index >= _ROUND
        if faults or not items:
            raise DataError(list_faults(f"{paths[0]} cannot be used:", faults[:20] or ["it has no questions"]))
        if circular and is_rotated:
            raise DataError(f"{paths[0]} contains the rotations already; leave out --circular.")
        variant = "circular" if is_rotated else "without rotations: first-order only"
        variant = "circular, rotations made here" if circular else variant
        return cls("mmbench-cn" if in_chinese else "mmbench", items, variant, images)

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """The image of a row, which may hold the index of another row in its place.

        Raises:
            DataError: If it is not base64.
        """
        text = self._images.get(name, "")
        if text.isascii() and text.isdecimal() and len(text) < _INDEX_DIGITS:
            text = self._images.get(str(int(text) % _ROUND), "")
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise DataError(f"the image of question {name} is not base64.") from error

    def mark(self, item: Item, text: str) -> Mark:
        """Right if the letter that it names is the answer's."""
        letter, options = item.label
        said = read_letter(text, options)
        return Mark(float(said == letter), said, is_unreadable=not said)

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """Circular accuracy, for which all rotations must be right; and that of the questions as first asked."""
        first = [min(group, key=lambda each: int(each.item.question_id)) for group in self._rounds(marked)]
        figures: list[Figure] = []
        if len(first) < len(marked):
            circular = self.units(marked)
            figures = [mean_points("circular accuracy", circular, is_main=True)]
            for kind in _KINDS:
                figures += accuracy_by(kind, circular, mean_points, before="circular, ")
        figures.append(accuracy("first-order accuracy", first, is_main=not figures))
        return [*figures, *(figure for kind in _KINDS for figure in accuracy_by(kind, first, before="first-order, "))]

    def units(self, marked: Sequence[Marked]) -> list[Marked]:
        """A question with all its rotations, worth what the worst of their answers is."""
        return [min(group, key=lambda each: each.mark.points) for group in self._rounds(marked)]

    @staticmethod
    def _rounds(marked: Sequence[Marked]) -> list[list[Marked]]:
        rounds: dict[int, list[Marked]] = defaultdict(list)
        for each in marked:
            rounds[int(each.item.question_id) % _ROUND].append(each)
        return list(rounds.values())


@dataclass(frozen=True)
class _Question:
    """A row: options in their order, and the index of the right one."""

    index: int
    context: str
    question: str
    options: tuple[str, ...]
    answer: int
    groups: dict[str, str]

    def item(self, n_turns: int, tail: str) -> Item:
        """The question after so many turns, each of which brings the last option to the front."""
        n = len(self.options)
        options = [self.options[(place - n_turns) % n] for place in range(n)]
        letter = _LETTERS[(self.answer + n_turns) % n]
        text = f"{self.context}{self.question}\n{list_options(options)}\n{tail}"
        image = f"{self.index % _ROUND}"
        return Item(self.index + n_turns * _ROUND, text, image, (letter, tuple(options)), self.groups)


def read_letter(text: str, options: Sequence[str]) -> str:
    """The letter that an answer names; "" if it names none."""
    letters = _LETTERS[: len(options)]
    if text and text in letters and len(text) == 1:
        return text
    if len(text) > 1 and text[0] in letters and text[1] in ".):":
        return text[0]
    words = re.findall(rf"\b[{_LETTERS}]\b", text)
    if len(text.split()) <= _SHORT_TEXT and len(words) == 1 and words[0] in letters:
        return str(words[0])
    equal = [letter for letter, option in zip(letters, options, strict=True) if option.lower() == text.lower()]
    return equal[0] if len(equal) == 1 else ""


def _read_rows(path: Path) -> Iterator[dict[str, str | None]]:
    """The rows of a file, one after another, since it is large."""
    try:
        with open_regular(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, delimiter="\t")
            names = reader.fieldnames or ()
            missing = [name for name in ("index", "question", "A", "B", "answer") if name not in names]
            if missing:
                advice = " Test files have no answers; they go to the server." if missing == ["answer"] else ""
                raise DataError(f"{path} has no columns {', '.join(missing)}.{advice}")
            yield from reader
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a TSV file: {error}.") from error


def _read_row(row: dict[str, str | None], number: int, faults: list[str]) -> _Question | None:
    options: list[str] = []
    for letter in _LETTERS:
        option = row.get(letter) or ""
        if option.strip().lower() in _NOTHING:
            break
        options.append(option)
    index, answer, hint = row.get("index") or "", row.get("answer") or "", row.get("hint") or ""
    is_index = index.isascii() and index.isdecimal() and len(index) < _INDEX_DIGITS
    if not is_index or len(options) < 2 or answer not in _LETTERS[: len(options)] or not answer:
        faults.append(f"row {number}: not an index, two to four options and the letter of one of them")
        return None
    context = "" if hint.strip().lower() in _NOTHING else f"{hint}\n"
    groups = {name: str(row[name]) for name in _KINDS if row.get(name)}
    asked = row.get("question") or ""
    return _Question(int(index), context, asked, tuple(options), _LETTERS.index(answer), groups)
