"""Instruction data from pictures and a teacher: ask, judge, keep, and write LLaVA's conversation JSON at the end."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.training.instructions.annotation import AnnotatedPicture
from edge_llava.training.instructions.asking import ask_all
from edge_llava.training.instructions.conversations import RESPONSE_TYPES, Conversation, write_conversations
from edge_llava.training.instructions.journal import Job, Journal
from edge_llava.training.instructions.phrasings import DETAIL
from edge_llava.training.instructions.reply import Rejection, parse_reply
from edge_llava.training.instructions.teacher import NO_REPLY, Reply, Teacher

_STAGE = "asking the teacher"
_MAX_SILENT = 3  # pictures in a row without any reply: the teacher is gone
_MAX_USELESS = 50  # rejections in a row: it does not understand what it is asked


@dataclass(frozen=True)
class GenerationOptions:
    """What to ask for.

    Attributes:
        types: Some of RESPONSE_TYPES; each picture gets a reply of each.
        concurrency: Replies that are waited for at once.
        seed: Of all that is drawn at random: how a description is asked for, where the image marker stands.
        overwrite: Replaces an output that is there, and forgets the replies of an unfinished run.
    """

    types: tuple[str, ...] = RESPONSE_TYPES
    concurrency: int = 4
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class GenerationReport:
    """How a run ended.

    Attributes:
        out: The conversation JSON.
        accepted: Replies in it, by type.
        rejected: Replies that are missing in it, by reason; asked for again when `generate` is called again.
        rejected_path: Where they are kept in full.
        n_kept: Accepted replies that an earlier run had left.
        prompt_tokens, completion_tokens: Of all replies, rejected ones and those of earlier runs included.
    """

    out: Path
    accepted: dict[str, int]
    rejected: dict[str, int]
    rejected_path: Path
    n_kept: int
    prompt_tokens: int
    completion_tokens: int


def generate(
    pictures: Sequence[AnnotatedPicture],
    teacher: Teacher,
    out: Path,
    options: GenerationOptions = GenerationOptions(),
    progress: ProgressCallback = silent,
) -> GenerationReport:
    """Asks a teacher about pictures. Replies are kept as they come: a run that was stopped goes on when called again.

    Args:
        pictures: What to ask about.
        teacher: Whom to ask.
        out: LLaVA's conversation JSON, or JSONL by its suffix; in the order of the pictures whatever the concurrency.
        options: What to ask for.
        progress: Called after every reply.

    Raises:
        DataError: If the output is in the way, the teacher refuses or is gone, no reply is accepted, or nothing can be
            written. What was accepted is kept.
    """
    wanted = {_job(picture, kind): picture for picture in pictures for kind in options.types}
    with Journal(out, {"teacher": teacher.name, "seed": options.seed}, overwrite=options.overwrite) as journal:
        n_kept = sum(job in journal.accepted for job in wanted)
        try:
            rejected = _ask_for_missing(wanted, teacher, journal, options, progress)
            made = [job for job in wanted if job in journal.accepted]
            if not made:
                raise DataError(f"no reply was accepted. They are in {journal.rejected_path}, with the reasons.")
            write_conversations(
                out,
                [Conversation(job.id, wanted[job].image, journal.accepted[job], job.type) for job in made],
                options.seed,
            )
        except DataError as error:
            raise DataError(f"{error}\n{journal.what_next}") from error
    if not rejected and journal.accepted.keys() <= wanted.keys():
        journal.remove()
    return GenerationReport(
        out=out,
        accepted={kind: sum(job.type == kind for job in made) for kind in options.types},
        rejected=dict(rejected),
        rejected_path=journal.rejected_path,
        n_kept=n_kept,
        prompt_tokens=journal.prompt_tokens,
        completion_tokens=journal.completion_tokens,
    )


def _job(picture: AnnotatedPicture, response_type: str) -> Job:
    return Job(picture.id, response_type, hashlib.sha256(repr(picture).encode()).hexdigest()[:16])


def _ask_for_missing(
    wanted: Mapping[Job, AnnotatedPicture],
    teacher: Teacher,
    journal: Journal,
    options: GenerationOptions,
    progress: ProgressCallback,
) -> Counter[str]:
    """Asks for what the journal does not hold; returns how many replies were rejected, by reason."""
    missing = [(job, picture) for job, picture in wanted.items() if job not in journal.accepted]
    rejected, in_a_row = Counter[str](), list[str]()
    n_done = len(wanted) - len(missing)
    progress(ProgressEvent(_STAGE, n_done, len(wanted), "items"))
    with closing(ask_all(teacher, missing, options.concurrency)) as replies:
        for job, reply in replies:
            rejection = _judge(job, reply, journal, options.seed)
            if rejection is None:
                in_a_row.clear()
            else:
                rejected[rejection.reason] += 1
                in_a_row.append(rejection.reason)
                _check_hope(teacher, in_a_row, rejection)
            n_done += 1
            progress(ProgressEvent(_STAGE, n_done, len(wanted), "items"))
    return rejected


def _check_hope(teacher: Teacher, in_a_row: list[str], last: Rejection) -> None:
    if len(in_a_row) >= _MAX_USELESS or in_a_row[-_MAX_SILENT:] == [NO_REPLY] * _MAX_SILENT:
        raise DataError(
            f"{teacher.name} was of no use {len(in_a_row)} times in a row. The last time: {last.reason}: {last.detail}."
        )


def _judge(job: Job, reply: Reply, journal: Journal, seed: int) -> Rejection | None:
    """Accepts or rejects a reply, and keeps it either way."""
    detail_question = random.Random(f"{seed} {job.id}").choice(DETAIL)
    result = reply.fault or parse_reply(reply.text, job.type, detail_question)
    if isinstance(result, Rejection):
        journal.reject(job, result, reply)
        return result
    journal.accept(job, result, reply)
    return None
