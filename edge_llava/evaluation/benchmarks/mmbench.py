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
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure, Item, Mark, Marked
from edge_llava.evaluation.benchmarks.figures import accuracy, accuracy_by
from edge_llava.evaluation.benchmarks.prompts import LETTER, list_options
from edge_llava.home.json_files import read_text

CHINESE = "请直接回答选项字母。"
_LETTERS = "ABCD"
_ROUND = 1_000_000  # what a rotation adds to an index
_NOTHING = ("", "nan", "none")
_SHORT_TEXT = 3  # words in which a lone letter is an answer


class MmBench:
    """MMBench's rows; the label of an item is (letter, options)."""

    name = "mmbench"

    def __init__(self, items: Sequence[Item], variant: str, images: Mapping[str, str]) -> None:
        """See `read`."""
        self.items, self.variant, self._images = items, variant, images

    @classmethod
    def read(cls, paths: Sequence[Path], *, is_chinese: bool = False) -> MmBench:
        """Reads a TSV file with answers, such as mmbench_dev_20230712.tsv.

        Raises:
            DataError: If the file cannot be read, has no answers, or rows are wrong; all faults at once.
        """
        if len(paths) != 1:
            raise DataError("MMBench needs one TSV file.")
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images are in the cells
        rows = list(csv.DictReader(io.StringIO(read_text(paths[0])), delimiter="\t"))
        missing = [name for name in ("index", "question", "A", "B", "answer") if not rows or name not in rows[0]]
        if missing:
            advice = " Test files have no answers; they go to the server." if missing == ["answer"] else ""
            raise DataError(f"{paths[0]} has no columns {', '.join(missing)}.{advice}")
        faults: list[str] = []
        items = [_read_row(row, number, is_chinese, faults) for number, row in enumerate(rows, 2)]
        if faults:
            raise DataError(list_faults(f"{paths[0]} contains rows that cannot be used:", faults[:20]))
        found = [item for item in items if item is not None]
        rotated = any(int(item.question_id) >= _ROUND for item in found)
        images: dict[str, str] = {}
        for row in rows:  # rotations share the image, and may not repeat it
            base = str(int(row["index"] or 0) % _ROUND)
            images[base] = images.get(base) or row.get("image") or ""
        return cls(found, "circular" if rotated else "without rotations: first-order only", images)

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """The image of a row, which may hold the index of another row in its place.

        Raises:
            DataError: If it is not base64.
        """
        text = self._images.get(name, "")
        if text.isdecimal():
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
        rounds: dict[int, list[Marked]] = defaultdict(list)
        for each in marked:
            rounds[int(each.item.question_id) % _ROUND].append(each)
        first = [min(group, key=lambda each: int(each.item.question_id)) for group in rounds.values()]
        circular = [
            Marked(one.item, min((each.mark for each in group), key=lambda mark: mark.points), one.text)
            for one, group in zip(first, rounds.values(), strict=True)
        ]
        figures = []
        if len(first) < len(marked):
            figures = [accuracy("circular accuracy", circular, is_main=True)]
            figures += [*accuracy_by("category", circular), *accuracy_by("l2-category", circular)]
        return [*figures, accuracy("first-order accuracy", first, is_main=not figures), *accuracy_by("category", first)]


def read_letter(text: str, options: Sequence[str]) -> str:
    """The letter that an answer names; "" if it names none."""
    letters = _LETTERS[: len(options)]
    if text and text in letters and len(text) == 1:
        return text
    if len(text) > 1 and text[0] in letters and text[1] in ".):":
        return text[0]
    words = re.findall(rf"\b[{letters}]\b", text)
    if len(text.split()) <= _SHORT_TEXT and len(words) == 1:
        return str(words[0])
    equal = [letter for letter, option in zip(letters, options, strict=True) if option.lower() == text.lower()]
    return equal[0] if len(equal) == 1 else ""


def rotate(options: Sequence[str], answer: str) -> tuple[list[str], str]:
    """The next rotation: the last option comes to the front, and the answer's letter moves along."""
    turned = [options[-1], *options[:-1]]
    return turned, _LETTERS[(_LETTERS.index(answer) + 1) % len(options)]


def _read_row(row: dict[str, str | None], number: int, is_chinese: bool, faults: list[str]) -> Item | None:
    options: list[str] = []
    for letter in _LETTERS:
        option = row.get(letter) or ""
        if option.strip().lower() in _NOTHING:
            break
        options.append(option)
    index, answer, hint = row.get("index") or "", row.get("answer") or "", row.get("hint") or ""
    if not index.isdecimal() or len(options) < 2 or answer not in _LETTERS[: len(options)] or not answer:
        faults.append(f"row {number}: not an index, two to four options and the letter of one of them")
        return None
    context = "" if hint.strip().lower() in _NOTHING else f"{hint}\n"
    tail = CHINESE if is_chinese else LETTER
    text = f"{context}{row.get('question') or ''}\n{list_options(options)}\n{tail}"
    groups = {name: str(row[name]) for name in ("category", "l2-category") if row.get(name)}
    return Item(int(index), text, f"{int(index) % _ROUND}", (answer, tuple(options)), groups)
