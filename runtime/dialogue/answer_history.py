"""Earlier answers as tokens: a client sends back text, and the same text may be written in other tokens."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.runtime.runs import ImageRun, Run


@dataclass(frozen=True)
class KnownAnswer:
    """An answer as it stands in its conversation.

    Attributes:
        ids: Its tokens; nothing of a stop text.
        carry: Text of it that is not in them, see `AnswerText.split`; it goes before the next question.
    """

    ids: tuple[int, ...]
    carry: str = ""


class AnswerHistory:
    """The most recent answers, found by everything before them and their text. Thread-safe."""

    def __init__(self, n_kept: int = 512) -> None:
        self._n_kept = n_kept
        self._lock = threading.Lock()
        self._answers: OrderedDict[bytes, KnownAnswer] = OrderedDict()

    def remember(self, conversation: Sequence[Run], text: str, answer: KnownAnswer, salt: str = "") -> None:
        """Keeps the answer to a conversation's last question; the oldest is forgotten."""
        key = _key(conversation, text, salt)
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            if len(self._answers) > self._n_kept:
                self._answers.popitem(last=False)

    def find(self, conversation: Sequence[Run], text: str, salt: str = "") -> KnownAnswer | None:
        """What was answered, if it is remembered; white space around the text, which clients strip, is ignored."""
        key = _key(conversation, text, salt)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
            return self._answers.get(key)


def _key(conversation: Sequence[Run], text: str, salt: str) -> bytes:
    digest = hashlib.sha256(f"{len(salt)} {salt}".encode())
    for run in conversation:
        content = run.identity.encode() if isinstance(run, ImageRun) else array("i", run.ids).tobytes()
        digest.update(f"{type(run).__name__} {len(content)} ".encode())
        digest.update(content)
    digest.update(text.strip().encode())
    return digest.digest()
