"""The progress of a run, kept next to its output so that a killed run resumes where it stopped.

OUT.partial.jsonl    first line: the settings; then one accepted reply per line
OUT.rejected.jsonl   one rejected reply per line, with the reason, in full

A line is written as soon as its reply arrives; half a line at the end is what a kill left, and is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.home.json_files import read_json_lines, refuse
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import HeldElsewhere
from edge_llava.training.instructions.conversations import Turn
from edge_llava.training.instructions.reply import Rejection
from edge_llava.training.instructions.teacher import TeacherReply


@dataclass(frozen=True)
class ReplyJob:
    """One reply to ask for.

    Attributes:
        id: The image's id.
        type: "conversation", "detail" or "reasoning".
        digest: Digest of everything known about the image, so that a reply about another image is not used for it.
    """

    id: str
    type: str
    digest: str


def journal_path(out: Path) -> Path:
    """Returns where the accepted replies of an unfinished run are."""
    return out.with_name(f"{out.name}.partial.jsonl")


class Journal:
    """Open for one run; `with` closes it.

    Attributes:
        path, rejected_path: Its two files.
        accepted: The turns of every accepted reply, of this run and earlier ones.
        prompt_tokens, completion_tokens: The cost of all replies, accepted or not, of this run and earlier ones.
    """

    def __init__(self, out: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
        """
        Args:
            out: The output that this journal belongs to.
            settings: What must not change between two runs for one output: teacher and seed.
            overwrite: Start again and discard what was kept.

        Raises:
            DataError: If the output exists and there is no run to resume, or the run had other settings.
        """
        self.accepted: dict[ReplyJob, tuple[Turn, ...]] = {}
        self.prompt_tokens = self.completion_tokens = 0
        self.path = journal_path(out)
        self.rejected_path = out.with_name(f"{out.name}.rejected.jsonl")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if not overwrite and out.exists() and not self.path.exists():
                raise DataError(f"{out} already exists. Replace it with --force, or choose another output with -o.")
            with ExitStack() as files:
                self._file = files.enter_context(LineFile(self.path))
                self._rejected = files.enter_context(LineFile(self.rejected_path))
                for file in (self._file, self._rejected):
                    file.cut(0) if overwrite else file.drop_half_line()
                self._read(settings)
                files.pop_all()  # the files stay open unless reading fails
        except HeldElsewhere as error:
            raise DataError(
                f"{self.path} is being written by another run. Wait until it ends, or choose another output with -o."
            ) from error
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror}. Choose another output with -o."
            ) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close(remove=not self.accepted)
        self._rejected.close(remove=self.rejected_path.stat().st_size == 0)

    @property
    def what_next(self) -> str:
        """The message for a user who stopped the run."""
        if not self.accepted:
            return "Nothing was accepted so far."
        return f"Accepted replies so far: {len(self.accepted)}. They are kept; run the same command again to resume."

    def accept(self, job: ReplyJob, turns: Sequence[Turn], reply: TeacherReply) -> None:
        """Keeps an accepted reply."""
        self._keep(self._file, job, reply, {"turns": [[turn.question, turn.answer] for turn in turns]})
        self.accepted[job] = tuple(turns)

    def reject(self, job: ReplyJob, rejection: Rejection, reply: TeacherReply) -> None:
        """Keeps a rejected reply with its reason."""
        why = {"reason": rejection.reason, "detail": rejection.detail, "reply": reply.text}
        self._keep(self._rejected, job, reply, why)

    def remove(self) -> None:
        """Deletes the record of accepted replies once they are in the output; rejected ones stay."""
        self.path.unlink(missing_ok=True)

    def _keep(self, file: LineFile, job: ReplyJob, reply: TeacherReply, facts: dict[str, Any]) -> None:
        cost = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        try:
            file.append(_to_line({"id": job.id, "type": job.type, "digest": job.digest} | facts | cost))
        except OSError as error:
            raise DataError(f"{self.path} cannot grow: {error.strerror}. Free space on its disk.") from error

    def _read(self, settings: dict[str, Any]) -> None:
        """Reads what earlier runs kept, or begins a new record."""
        faults: list[str] = []
        kept = [line for _, line in read_json_lines(self.path, faults)]
        rejected = [line for _, line in read_json_lines(self.rejected_path, faults)]
        try:
            for line in kept[1:]:
                job = ReplyJob(line["id"], line["type"], line["digest"])
                self.accepted[job] = tuple(Turn(question, answer) for question, answer in line["turns"])
            for line in [*kept[1:], *rejected]:
                self.prompt_tokens += int(line["prompt_tokens"])
                self.completion_tokens += int(line["completion_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            faults.append(f"a line is not a reply: {error!r}")
        advice = "Start again with --force, which discards these replies, or choose another output with -o."
        if faults:
            raise refuse(f"{self.path} and {self.rejected_path.name} are not as they were written:", faults, advice)
        if len(kept) < 2:  # it contains no reply
            self._file.cut(0)
            self._file.append(_to_line(settings))
        elif kept[0] != settings:
            changes = [f"{key}: {kept[0].get(key)!r} then, {settings[key]!r} now" for key in settings]
            raise refuse(f"{self.path} was begun with other settings:", changes, f"Resume with those. {advice}")


def _to_line(record: dict[str, Any]) -> bytes:
    """Formats a line in ASCII, so that any text can be kept."""
    return json.dumps(record).encode() + b"\n"
