"""A run of a bundle over a benchmark: a directory that a later call of the same settings continues.

See `run_record` for its files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import ContextOverflow, DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Item
from edge_llava.evaluation.benchmarks.scoring import Scores
from edge_llava.evaluation.run_record import ANSWERS_NAME, RUN_NAME, RunRecord, find_judged, read_settings
from edge_llava.evaluation.share import Share
from edge_llava.home.json_files import write_text
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import HeldElsewhere, NotRegular
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent

_SHOWN = 5


@dataclass(frozen=True)
class Said:
    """An answer: its text, stripped; its tokens; why it ended; how long it took; and its image's digest."""

    text: str
    n_tokens: int
    finish_reason: str
    seconds: float = 0.0
    image_sha256: str | None = None


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
            _refuse_foreign(directory)
            with ExitStack() as stack:
                self._file = stack.enter_context(LineFile(directory / ANSWERS_NAME))
                self._check_settings()
                self._read()
                stack.pop_all()  # it stays open unless reading fails
        except NotRegular as error:
            raise DataError(f"{directory / ANSWERS_NAME} is not a regular file.") from error
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

    def answer(
        self,
        ask: Ask,
        progress: ProgressCallback = silent,
        *,
        parallel: int = 1,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        """Asks everything that has no answer yet. A question that does not fit the context stays without one.

        Args:
            ask: Asks one; with `parallel`, on several threads.
            progress: Called after every answer, with the share that was right so far.
            parallel: Questions that are asked at the same time.
            cancel: Ends the answers that run, where this is interrupted.

        Raises:
            DataError: If a line cannot be written, for example because the disk is full; earlier lines are kept.
        """
        n_all, todo = len(self._benchmark.items), self.todo
        n_done, so_far = n_all - len(todo), _SoFar(self._benchmark, self._answers)
        for item, said in _ask_in_order(ask, todo, parallel, cancel):
            if said is not None:
                self._append(item, said)
                so_far.add(item, said.text)
            n_done += 1
            progress(ProgressEvent(f"asking {self._benchmark.name}", n_done, n_all, "items", str(so_far)))

    def finish(self) -> Scores:
        """Scores what was answered, and writes the files of scores.

        Raises:
            DataError: If they cannot be written.
        """
        record = RunRecord(self.directory, self._settings, self._benchmark)
        scores = record.scores()
        record.write(scores)
        return scores

    def _check_settings(self) -> None:
        path = self.directory / RUN_NAME
        if path.exists():
            self._compare(read_settings(self.directory)[0])
        source = self._benchmark.source
        questions = None if source is None else source.to_dict()
        write_text(
            path, json.dumps({"settings": self._settings, "questions": questions}, indent=2, sort_keys=True) + "\n"
        )

    def _compare(self, begun: Mapping[str, Any]) -> None:
        """Refuses other settings than those that the run was begun with."""
        ours = json.loads(json.dumps(self._settings))
        differences = list_differences(begun, ours, ("then", "now"))
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
                raise DataError(f"{self.directory / ANSWERS_NAME}, line {number} is no answer of a run.") from error
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
            "metadata": {
                "key": item.key,
                "n_tokens": said.n_tokens,
                "finish_reason": said.finish_reason,
                "seconds": round(said.seconds, 3),
                "image_sha256": said.image_sha256,
            },
        }
        try:
            self._file.append(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise DataError(
                f"{self._file.path} cannot grow: {error.strerror}. Free some space, and run the same command again."
            ) from error
        self._answers[item.key] = said.text


def _refuse_foreign(directory: Path) -> None:
    answers = directory / ANSWERS_NAME
    if not (directory / RUN_NAME).exists() and answers.is_file() and answers.stat().st_size:
        raise DataError(f"{answers} was not written by a run: {RUN_NAME} is missing. Choose another directory with -o.")


def list_differences(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """What differs between two settings, in words: "max_tokens: 8 then, 9 now"."""
    return [
        f"{name}: {a.get(name)!r} {names[0]}, {b.get(name)!r} {names[1]}"
        for name in sorted({*a, *b})
        if a.get(name) != b.get(name)
    ]


class _SoFar:
    """The share of the answers that are right, while there are more and more of them."""

    def __init__(self, benchmark: Benchmark, answers: Mapping[str, str]) -> None:
        self._benchmark, self._points, self._n = benchmark, 0.0, 0
        self._is_judged = find_judged(benchmark) is not None
        for item in benchmark.items:
            if item.key in answers:
                self.add(item, answers[item.key])

    def add(self, item: Item, text: str) -> None:
        """One more."""
        if item.label is not None and not self._is_judged:
            self._points += self._benchmark.mark(item, text).points
            self._n += 1

    def __str__(self) -> str:
        """For people; "" where nothing can be said."""
        if not self._n:
            return ""
        low, high = Share(round(self._points), self._n).interval
        return f"{100 * self._points / self._n:.1f} % ({100 * low:.0f} to {100 * high:.0f}) right"


def _ask_in_order(
    ask: Ask, items: Sequence[Item], parallel: int, cancel: Callable[[], None]
) -> Iterator[tuple[Item, Said | None]]:
    """Yields every question with its answer, in their order; None where a question does not fit the context."""

    def try_to_ask(item: Item) -> Said | None:
        try:
            return ask(item)
        except ContextOverflow:
            return None

    if parallel == 1:
        yield from ((item, try_to_ask(item)) for item in items)
        return
    waiting: deque[tuple[Item, Future[Said | None]]] = deque()
    # as many wait in the engine as are computed, so that a place never stays empty until a thread comes
    with ThreadPoolExecutor(2 * parallel, "edge-llava-eval") as threads:
        try:
            for item in items:
                waiting.append((item, threads.submit(try_to_ask, item)))
                if len(waiting) > 4 * parallel:  # none of the threads waits for the slowest
                    item_, future = waiting.popleft()
                    yield item_, future.result()
            while waiting:
                item_, future = waiting.popleft()
                yield item_, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
            if waiting:
                cancel()
