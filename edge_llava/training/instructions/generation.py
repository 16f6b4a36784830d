"""Makes instruction data with a teacher: ask, judge, keep, and write LLaVA's conversation JSON at the end."""

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
from edge_llava.remote.asking import ask_all
from edge_llava.remote.chat_client import NO_REPLY
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.conversations import RESPONSE_TYPES, Conversation, write_conversations
from edge_llava.training.instructions.journal import Journal, ReplyJob
from edge_llava.training.instructions.phrasings import DETAIL
from edge_llava.training.instructions.reply import Rejection, parse_reply
from edge_llava.training.instructions.teacher import Teacher, TeacherReply

_STAGE = "asking the teacher"
_MAX_SILENT = 3  # images in a row without any reply: the teacher is unavailable
_MAX_USELESS = 50  # rejections in a row: the teacher does not understand the task


@dataclass(frozen=True)
class GenerationOptions:
    """The options of a run.

    Attributes:
        types: Some of RESPONSE_TYPES; each image gets a reply of each.
        concurrency: Number of questions asked at the same time.
        seed: Seed of all random choices: how a description is asked for, where the image marker goes.
        overwrite: Replace an existing output, and discard the replies of an unfinished run.
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
        rejected: Rejected replies by reason; they are requested again when `generate` is called again.
        rejected_path: Where they are kept in full.
        n_kept: Accepted replies from an earlier run.
        prompt_tokens, completion_tokens: Tokens of all replies, including rejected ones and those of earlier runs.
    """

    out: Path
    accepted: dict[str, int]
    rejected: dict[str, int]
    rejected_path: Path
    n_kept: int
    prompt_tokens: int
    completion_tokens: int


def generate(
    images: Sequence[AnnotatedImage],
    teacher: Teacher,
    out: Path,
    options: GenerationOptions = GenerationOptions(),
    progress: ProgressCallback = silent,
) -> GenerationReport:
    """Asks a teacher about images. Replies are kept as they arrive: a stopped run resumes when called again.

    Args:
        images: What to ask about.
        teacher: The teacher to ask.
        out: LLaVA's conversation JSON, or JSONL by its suffix; always in the order of the images.
        options: What to ask for.
        progress: Called after every reply.

    Raises:
        DataError: If the output exists, the teacher refuses or is unavailable, no reply is accepted, or the output
            cannot be written. Accepted replies are kept.
    """
    wanted = {_job(image, kind): image for image in images for kind in options.types}
    with Journal(out, {"teacher": teacher.name, "seed": options.seed}, overwrite=options.overwrite) as journal:
        n_kept = sum(job in journal.accepted for job in wanted)
        try:
            rejected = _ask_for_missing(wanted, teacher, journal, options, progress)
            made = [job for job in wanted if job in journal.accepted]
            if not made:
                raise DataError(f"no reply was accepted. They are in {journal.rejected_path}, with the reasons.")
            write_conversations(
                out,
                [Conversation(job.id, wanted[job].path, journal.accepted[job], job.type) for job in made],
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


def _job(image: AnnotatedImage, response_type: str) -> ReplyJob:
    return ReplyJob(image.id, response_type, hashlib.sha256(repr(image).encode()).hexdigest()[:16])


def _ask_for_missing(
    wanted: Mapping[ReplyJob, AnnotatedImage],
    teacher: Teacher,
    journal: Journal,
    options: GenerationOptions,
    progress: ProgressCallback,
) -> Counter[str]:
    """Asks for what the journal does not contain; returns how many replies were rejected, by reason."""
    missing = [(job, image) for job, image in wanted.items() if job not in journal.accepted]
    rejected, in_a_row = Counter[str](), list[str]()
    n_done = len(wanted) - len(missing)
    progress(ProgressEvent(_STAGE, n_done, len(wanted), "items"))

    def ask(question: tuple[ReplyJob, AnnotatedImage]) -> TeacherReply:
        job, image = question
        return teacher.reply(image, job.type)

    with closing(ask_all(ask, missing, options.concurrency)) as replies:
        for (job, _), reply in replies:
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
            f"{teacher.name} gave no usable reply {len(in_a_row)} times in a row. Last: {last.reason}: {last.detail}."
        )


def _judge(job: ReplyJob, reply: TeacherReply, journal: Journal, seed: int) -> Rejection | None:
    """Accepts or rejects a reply, and keeps it either way."""
    detail_question = random.Random(f"{seed} {job.id}").choice(DETAIL)
    result = reply.fault or parse_reply(reply.text, job.type, detail_question)
    if isinstance(result, Rejection):
        journal.reject(job, result, reply)
        return result
    journal.accept(job, result, reply)
    return None
