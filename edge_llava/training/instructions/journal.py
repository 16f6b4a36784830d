"""What a run has so far, kept beside its output so that a killed run goes on where it was.

OUT.partial.jsonl    first line: the settings; then one accepted reply a line
OUT.rejected.jsonl   one rejected reply a line, with the reason, in full

A line is written at once when its reply is there; half a line at the end is what a kill left, and dropped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.training.instructions.conversations import Turn
from edge_llava.training.instructions.json_files import read_json_lines, refuse
from edge_llava.training.instructions.reply import Rejection
from edge_llava.training.instructions.teacher import Reply


@dataclass(frozen=True)
class Job:
    """One reply to ask for.

    Attributes:
        id: Of the picture.
        type: "conversation", "detail" or "reasoning".
        digest: Of all that is known about the picture: a reply about another one is not taken for this one.
    """

    id: str
    type: str
    digest: str


def journal_path(out: Path) -> Path:
    """Where the accepted replies of an unfinished run lie."""
    return out.with_name(f"{out.name}.partial.jsonl")


class Journal:
    """Open for one run; `with` closes it.

    Attributes:
        path, rejected_path: Its two files.
        accepted: The turns of every reply that was accepted, in this run or before.
        prompt_tokens, completion_tokens: What all replies cost, accepted or not, in this run and before.
    """

    def __init__(self, out: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
        """
        Args:
            out: The output that this journal belongs to.
            settings: What must not change between two runs for one output: teacher and seed.
            overwrite: Starts anew and forgets what was kept.

        Raises:
            DataError: If the output is there and no run to go on with, or the run had other settings.
        """
        self.accepted: dict[Job, tuple[Turn, ...]] = {}
        self.prompt_tokens = self.completion_tokens = 0
        self.path = journal_path(out)
        self.rejected_path = out.with_name(f"{out.name}.rejected.jsonl")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self.path.unlink(missing_ok=True)
                self.rejected_path.unlink(missing_ok=True)
            elif out.exists() and not self.path.exists():
                raise DataError(f"{out} is there already. Replace it with --force, or choose another output with -o.")
            with ExitStack() as files:
                self._file = files.enter_context(_open(self.path))
                self._rejected = files.enter_context(_open(self.rejected_path))
                self._read(settings)
                self._files = files.pop_all()  # they stay open unless reading fails
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror}. Choose another output with -o."
            ) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *unused: object) -> None:
        self._files.close()
        if not self.accepted:
            self.remove()
        if self.rejected_path.stat().st_size == 0:
            self.rejected_path.unlink()

    @property
    def what_next(self) -> str:
        """What to tell a user who was stopped."""
        if not self.accepted:
            return "Nothing was accepted so far."
        return f"Accepted replies so far: {len(self.accepted)}. They are kept; run the same command again to go on."

    def accept(self, job: Job, turns: Sequence[Turn], reply: Reply) -> None:
        """Keeps an accepted reply."""
        self._keep(self._file, job, reply, {"turns": [[turn.question, turn.answer] for turn in turns]})
        self.accepted[job] = tuple(turns)

    def reject(self, job: Job, rejection: Rejection, reply: Reply) -> None:
        """Keeps a rejected reply with its reason."""
        why = {"reason": rejection.reason, "detail": rejection.detail, "reply": reply.text}
        self._keep(self._rejected, job, reply, why)

    def remove(self) -> None:
        """Deletes the record of accepted replies, once they are in the output; rejected ones stay."""
        self.path.unlink(missing_ok=True)

    def _keep(self, file: FileIO, job: Job, reply: Reply, facts: dict[str, Any]) -> None:
        cost = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        try:
            _append(file, {"id": job.id, "type": job.type, "digest": job.digest} | facts | cost)
        except OSError as error:
            raise DataError(f"{self.path} cannot grow: {error.strerror}. Make room where it lies.") from error

    def _read(self, settings: dict[str, Any]) -> None:
        """Takes over what earlier runs kept, or begins."""
        faults: list[str] = []
        kept = [line for _, line in read_json_lines(self.path, faults)]
        rejected = [line for _, line in read_json_lines(self.rejected_path, faults)]
        try:
            for line in kept[1:]:
                job = Job(line["id"], line["type"], line["digest"])
                self.accepted[job] = tuple(Turn(question, answer) for question, answer in line["turns"])
            for line in [*kept[1:], *rejected]:
                self.prompt_tokens += int(line["prompt_tokens"])
                self.completion_tokens += int(line["completion_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            faults.append(f"a line is no reply: {error!r}")
        advice = "Start anew with --force, which forgets these replies, or choose another output with -o."
        if faults:
            raise refuse(f"{self.path} and {self.rejected_path.name} are not as they were written:", faults, advice)
        if len(kept) < 2:  # no reply in it
            self._file.truncate(0)
            _append(self._file, settings)
        elif kept[0] != settings:
            changes = [f"{key}: {kept[0].get(key)!r} then, {settings[key]!r} now" for key in settings]
            raise refuse(f"{self.path} was begun with other settings:", changes, f"Go on with those. {advice}")


def _open(path: Path) -> FileIO:
    """Opens for appending, without a buffer; half a line at the end goes."""
    file = path.open("ab", buffering=0)
    file.truncate(path.read_bytes().rfind(b"\n") + 1)
    return file


def _append(file: FileIO, record: dict[str, Any]) -> None:
    """Writes one line; ASCII, so that any text whatever can be kept."""
    line = memoryview(json.dumps(record).encode() + b"\n")
    while line:
        line = line[file.write(line) :]
