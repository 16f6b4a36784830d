"""A model's replies, kept in a file by the digest of what was asked: the same request is never paid twice.

A line is written as soon as its reply arrives; half a line at the end is what a kill left, and is dropped.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import HeldElsewhere, NotRegular
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
        n_asked: Requests that were sent, of this run.
        prompt_tokens, completion_tokens: Of all replies, of this run and earlier ones.
    """

    def __init__(self, path: Path, client: ChatClient) -> None:
        """
        Args:
            path: Created if it does not exist.
            client: Asked for what the file does not contain.

        Raises:
            DataError: If the file cannot be used.
        """
        self._path, self._client = path, client
        self._changing = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._kept: dict[str, str] = {}
        self.n_asked = self.prompt_tokens = self.completion_tokens = 0
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
                self._kept[str(record["digest"])] = str(record["text"])
                self._count(record)
            except (ValueError, KeyError, TypeError) as error:
                self._file.close()
                raise DataError(f"{path}, line {number} is no reply that was kept.") from error

    def __enter__(self) -> KeptReplies:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()

    def is_kept(self, question: Question) -> bool:
        """Whether the reply is here."""
        return question.digest(self._client.name) in self._kept

    def ask(self, question: Question) -> ChatReply:
        """The kept reply, or a new one. It is kept unless something else than a limit of tokens is wrong with it.

        Raises:
            DataError: If the server refuses, or the file cannot grow.
        """
        digest = question.digest(self._client.name)
        with self._changing:
            asking = self._asking.setdefault(digest, threading.Lock())
        with asking:  # another thread may be asking the same
            kept = self._kept.get(digest)
            return self._ask(question, digest) if kept is None else ChatReply(kept)

    def _ask(self, question: Question, digest: str) -> ChatReply:
        reply = self._client.ask(question.messages, temperature=question.temperature, max_tokens=question.max_tokens)
        record = {
            "digest": digest,
            "text": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        with self._changing:
            self.n_asked += 1
            if reply.is_said:
                self._append(record)
                self._kept[digest] = reply.text
            self._count(record)
        return reply

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._file.append(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise DataError(
                f"{self._path} cannot grow: {error.strerror}. Free some space, and run it again."
            ) from error

    def _count(self, record: dict[str, Any]) -> None:
        self.prompt_tokens += int(record["prompt_tokens"])
        self.completion_tokens += int(record["completion_tokens"])


def estimate_tokens(messages: Sequence[dict[str, str]]) -> int:
    """About how many tokens a conversation has: four characters of English make one."""
    return sum(len(message["content"]) for message in messages) // 4 + 4 * len(messages)
