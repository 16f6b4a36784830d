"""A model's replies, kept in a file by the digest of what was asked: the same request is never paid twice.

A line is written as soon as its reply arrives; half a line at the end is what a kill left, and is dropped.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import HeldElsewhere, NotRegular
from edge_llava.remote.budget import Budget
from edge_llava.remote.chat_client import ChatClient, ChatReply


@dataclass(frozen=True)
class Question:
    """What is asked of a model.

    Attributes:
        messages: The conversation: each with its role and its content.
        temperature: None leaves it to the server.
        max_tokens: Of the reply; None leaves it to the server.
        round: Which one it is of several replies to the same conversation: "judging 2, try 1".
    """

    messages: tuple[dict[str, str], ...]
    temperature: float | None
    max_tokens: int | None
    round: str = ""

    def digest(self, model: str) -> str:
        """Of the question to a model."""
        facts = [model, self.messages, self.temperature, self.max_tokens, self.round]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class KeptReplies:
    """Asks a model what it was not asked before. May be shared by threads; `with` closes the file.

    Attributes:
        prompt_tokens, completion_tokens: Of all replies of this model, of this run and earlier ones.
    """

    def __init__(self, path: Path, client: ChatClient, budget: Budget | None = None) -> None:
        """
        Args:
            path: Created if it does not exist. Several models may share it.
            client: Asked for what the file does not contain.
            budget: Looked at before every request; None: there is no limit.

        Raises:
            DataError: If the file cannot be used.
        """
        self._path, self._client, self._budget = path, client, budget or Budget()
        self._changing = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._kept: dict[str, ChatReply] = {}
        self._is_closed = False
        self.prompt_tokens = self.completion_tokens = 0
        try:
            self._file = LineFile(path)
        except NotRegular as error:
            raise DataError(f"{path} is not a regular file.") from error
        except HeldElsewhere as error:
            raise DataError(f"{path} is in use by another process. Wait until it ends.") from error
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}.") from error
        self._file.drop_half_line()
        for number, (_, line) in enumerate(self._file.lines(), 1):
            try:
                record = json.loads(line)
                counts = int(record["prompt_tokens"]), int(record["completion_tokens"])
                self._kept[str(record["digest"])] = ChatReply(str(record["text"]), None, *counts)
                if record["model"] == client.name:
                    self._count(*counts)
            except (ValueError, KeyError, TypeError) as error:
                self._file.close()
                raise DataError(f"{path}, line {number} is no reply that was kept.") from error

    def __enter__(self) -> KeptReplies:
        return self

    def __exit__(self, *unused: object) -> None:
        with self._changing:
            self._is_closed = True
            self._file.close()

    def is_kept(self, question: Question) -> bool:
        """Whether the reply is here."""
        return question.digest(self._client.name) in self._kept

    def ask(self, question: Question) -> ChatReply:
        """The kept reply, or a new one. It is kept unless something else than a limit of tokens is wrong with it.

        Raises:
            DataError: If the server refuses, the budget is spent, or the file cannot grow.
        """
        digest = question.digest(self._client.name)
        with self._changing:
            asking = self._asking.setdefault(digest, threading.Lock())
        with asking:  # another thread may be asking the same
            kept = self._kept.get(digest)
            return self._ask(question, digest) if kept is None else kept

    def _ask(self, question: Question, digest: str) -> ChatReply:
        self._budget.check(self.prompt_tokens, self.completion_tokens)
        reply = self._client.ask(question.messages, temperature=question.temperature, max_tokens=question.max_tokens)
        with self._changing:
            if reply.is_said and not self._is_closed:  # else it came when nothing waited for it any more
                self._append(digest, reply)
                self._kept[digest] = replace(reply, fault=None)
            self._count(reply.prompt_tokens, reply.completion_tokens)
        return reply

    def _append(self, digest: str, reply: ChatReply) -> None:
        record = {
            "digest": digest,
            "model": self._client.name,
            "text": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        try:
            self._file.append(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise DataError(
                f"{self._path} cannot grow: {error.strerror}. Free some space, and run it again."
            ) from error

    def _count(self, n_prompt: int, n_completion: int) -> None:
        self.prompt_tokens += n_prompt
        self.completion_tokens += n_completion


def estimate_tokens(messages: Sequence[dict[str, str]]) -> int:
    """About how many tokens a conversation has: four characters of English make one."""
    return sum(len(message["content"]) for message in messages) // 4 + 4 * len(messages)
