"""Asks a text-only model ScienceQA's questions, and has it judge where its answers and ours differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.scienceqa_problem import read_problems_by_id
from edge_llava.evaluation.judging.ensemble import Decision, first_of, judge_question, other_question, wording_digest
from edge_llava.home.json_files import write_text
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.remote.asking import ask_all
from edge_llava.remote.budget import Estimate
from edge_llava.remote.chat_client import ChatReply
from edge_llava.remote.kept_replies import KeptReplies, Question, estimate_tokens

_TYPICAL_TOKENS = 150  # of a reply, for estimates
_MAX_SILENT = 3  # questions in a row without any reply: the model is unavailable


def other_questions(directory: Path, ids: Sequence[str], shots: Sequence[str]) -> dict[str, Question]:
    """What the other model is asked, by the ids of the problems.

    Args:
        directory: Of ScienceQA.
        ids: Of the problems.
        shots: Ids of the solved problems that it is shown.

    Raises:
        DataError: If problems cannot be read, or do not exist.
    """
    problems = read_problems_by_id(directory, [*ids, *shots])
    solved = [problems[id_] for id_ in shots]
    return {id_: other_question(problems[id_], solved) for id_ in ids}


def judge_questions(decisions: Sequence[Decision]) -> dict[str, Question]:
    """What the judge is asked, by the keys of the questions."""
    return {each.item.key: judge_question(each) for each in decisions if each.is_asked}


def estimate(questions: Mapping[str, Question], replies: KeptReplies) -> Estimate:
    """What is still to be asked, in about how many tokens."""
    new = [question for question in questions.values() if not replies.is_kept(question)]
    return Estimate(len(new), sum(estimate_tokens(each.messages) for each in new), _TYPICAL_TOKENS * len(new))


def ask_each(
    stage: str,
    questions: Mapping[str, Question],
    replies: KeptReplies,
    concurrency: int,
    progress: ProgressCallback = silent,
) -> None:
    """Asks everything that has no kept reply; what was replied is kept.

    Raises:
        DataError: If the server refuses or is unavailable, or the budget is spent.
    """
    n_done = n_silent = 0
    with closing(ask_all(replies.ask, list(questions.values()), concurrency)) as arriving:
        for _, reply in arriving:
            n_done += 1
            n_silent = 0 if reply.is_said else n_silent + 1
            if reply.fault is not None and n_silent >= _MAX_SILENT:
                raise DataError(f"{n_silent} questions in a row got no reply: {reply.fault.detail}.")
            progress(ProgressEvent(stage, n_done, len(questions), "items"))


def kept_texts(questions: Mapping[str, Question], replies: KeptReplies) -> dict[str, str]:
    """What was replied so far, by key, stripped at both ends."""
    return {key: replies.ask(each).text.strip() for key, each in questions.items() if replies.is_kept(each)}


def write_other(path: Path, texts: Mapping[str, str]) -> None:
    """Writes the other model's answers, as `--other` reads them.

    Raises:
        DataError: If it cannot be written.
    """
    lines = ({"question_id": id_, "text": text} for id_, text in sorted(texts.items()))
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def write_decisions(path: Path, decisions: Sequence[Decision], replies: KeptReplies, judge: str) -> None:
    """Writes what the judge said of each question that it was asked; null where it did not reply.

    Raises:
        DataError: If it cannot be written.
    """
    facts, lines = {"judge": judge, "wording": wording_digest()}, list[dict[str, Any]]()
    for each in decisions:
        if each.is_asked:
            question = judge_question(each)
            reply = replies.ask(question) if replies.is_kept(question) else ChatReply("")
            lines.append({
                "question_id": each.item.question_id, "text": each.judge, "first": first_of(each),
                "tokens_in": reply.prompt_tokens, "tokens_out": reply.completion_tokens, "metadata": facts,
            })  # fmt: skip
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
