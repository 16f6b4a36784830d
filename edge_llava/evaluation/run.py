"""A run of a bundle over a benchmark: a directory that a later call of the same settings continues.

run.json        settings, which a later call must have as well
answers.jsonl   one line for each answer, written when it is complete
scores.json     figures, once all questions are answered
wrong.jsonl     what was not right
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import ContextOverflow, DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Item
from edge_llava.evaluation.benchmarks.scoring import Scores, score
from edge_llava.home import files
from edge_llava.home.json_files import read_json, write_text
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import HeldElsewhere, NotRegular
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent

_SHOWN = 5


@dataclass(frozen=True)
class Said:
    """An answer: its text, stripped; its tokens; and why it ended."""

    text: str
    n_tokens: int
    finish_reason: str


Ask = Callable[[Item], Said]
"""Asks one question. Earlier questions have no influence, but those about one picture come one after another."""


def find_missing_images(benchmark: Benchmark, directory: Path) -> list[Item]:
    """The questions whose image is not in the directory."""
    names = dict.fromkeys(item.image for item in benchmark.items if item.image is not None)
    places = ((name, benchmark.find_image(name, directory)) for name in names)
    missing = {name for name, place in places if isinstance(place, Path) and not os.path.isfile(place)}
    return [item for item in benchmark.items if item.image in missing]


def refuse_missing_images(missing: Sequence[Item], directory: Path) -> None:
    """
    Raises:
        DataError: If there are any, with their number and the first five.
    """
    if missing:
        names = list(dict.fromkeys(str(item.image) for item in missing))
        more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN:,} more"
        raise DataError(
            f"{len(names):,} images of {len(missing):,} questions are not in {directory}: "
            f"{', '.join(names[:_SHOWN])}{more}. Name their directory with --images, or leave them out with "
            "--skip-faulty."
        )


class BenchmarkRun:
    """One run, locked for this process; `with` closes it."""

    def __init__(self, directory: Path, benchmark: Benchmark, settings: Mapping[str, Any]) -> None:
        """
        Args:
            directory: Of the run; created if it does not exist.
            benchmark: What is asked.
            settings: Everything that decides an answer or a score, as JSON values.

        Raises:
            DataError: If the directory cannot be written, is in use, or was begun with other settings.
        """
        self.directory, self._benchmark = directory, benchmark
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._settings = dict(settings)
        self._model_id = str(settings.get("bundle", ""))
        self._answers: dict[str, str] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                self._file = stack.enter_context(LineFile(directory / "answers.jsonl"))
                self._check_settings()
                self._read()
                stack.pop_all()  # it stays open unless reading fails
        except NotRegular as error:
            raise DataError(f"{directory / 'answers.jsonl'} is not a regular file.") from error
        except HeldElsewhere as error:
            raise DataError(f"{directory} is in use by another run. Wait until it ends, or choose another.") from error
        except OSError as error:
            raise DataError(f"{directory} cannot be written: {error.strerror}. Choose another with -o.") from error

    def __enter__(self) -> BenchmarkRun:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()

    @property
    def todo(self) -> list[Item]:
        """The questions without an answer, those of one picture together."""
        by_picture: dict[str, list[Item]] = {}
        for item in self._benchmark.items:
            by_picture.setdefault(item.picture, []).append(item)
        return [item for group in by_picture.values() for item in group if item.key not in self._answers]

    def answer(self, ask: Ask, progress: ProgressCallback = silent) -> None:
        """Asks everything that has no answer yet. A question that does not fit the context stays without one.

        Raises:
            DataError: If a line cannot be written, for example because the disk is full; earlier lines are kept.
        """
        n_all = len(self._benchmark.items)
        n_done = n_all - len(self.todo)
        for item in self.todo:
            with suppress(ContextOverflow):
                self._append(item, ask(item))
            n_done += 1
            progress(ProgressEvent(f"asking {self._benchmark.name}", n_done, n_all, "items"))

    def finish(self) -> Scores:
        """Scores what was answered, and writes scores.json and wrong.jsonl.

        Raises:
            DataError: If they cannot be written.
        """
        scores = score(self._benchmark, self._answers)
        wrong = scores.wrong() if scores.figures else []  # without labels nothing is wrong
        write_text(self.directory / "scores.json", json.dumps(scores.to_dict(), indent=2, sort_keys=True) + "\n")
        write_text(self.directory / "wrong.jsonl", "".join(f"{json.dumps(line)}\n" for line in wrong))
        return scores

    def _check_settings(self) -> None:
        path = self.directory / "run.json"
        if not path.exists():
            files.write_text(path, json.dumps(self._settings, indent=2, sort_keys=True) + "\n")
            return
        begun = read_json(path)
        if not isinstance(begun, dict):
            raise DataError(f"{path} is not the settings of a run. Choose another directory with -o.")
        ours = json.loads(json.dumps(self._settings))
        differences = [
            f"{name}: {begun.get(name)!r} then, {ours.get(name)!r} now"
            for name in sorted({*begun, *ours})
            if begun.get(name) != ours.get(name)
        ]
        if differences:
            headline = f"{self.directory} was begun with other settings:"
            raise DataError(list_faults(headline, differences, "Use those again, or choose another with -o."))

    def _read(self) -> None:
        """Reads earlier answers, and drops half a line that a kill left."""
        self._file.drop_half_line()
        known = {item.key: item for item in self._benchmark.items}
        for number, (_, line) in enumerate(self._file.lines(), 1):
            try:
                record = json.loads(line)
                key, text = record["metadata"]["key"], record["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{self.directory / 'answers.jsonl'}, line {number} is no answer of a run.") from error
            if key in known and isinstance(text, str):
                self._answers[key] = text

    def _append(self, item: Item, said: Said) -> None:
        marker = "<image>\n" if item.image is not None and self._benchmark.name == "scienceqa" else ""
        line = {
            "question_id": item.question_id,
            "prompt": f"{marker}{item.text}",
            "text": said.text,
            "answer_id": hashlib.sha256(f"{self._digest} {item.key}".encode()).hexdigest()[:16],
            "model_id": self._model_id,
            "metadata": {"key": item.key, "n_tokens": said.n_tokens, "finish_reason": said.finish_reason},
        }
        try:
            self._file.append(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        except OSError as error:
            raise DataError(
                f"{self._file.path} cannot grow: {error.strerror}. Free some space, and run the same command again."
            ) from error
        self._answers[item.key] = said.text
