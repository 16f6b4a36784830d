"""The protocol between `compare.py` and a peer's process: one JSON object per line. Needs only the standard library.

    the peer     {"ready": {"version": ..., ...}}                       its model is loaded
    compare.py   {"image": PATH or null, "question": TEXT, "n_tokens": N}     null continues the conversation
    the peer     {"first": true}                                        the first token is known
    the peer     {"done": {"n_tokens": N, "prompt_tokens": P, ...}}     all tokens are; with the peer's own figures

compare.py measures all times, so that every peer is measured by the same clock.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


class Peer(Protocol):
    """A loaded model.

    Attributes:
        facts: Version and settings, for the report.
    """

    facts: dict[str, Any]

    def ask(self, image: str | None, question: str, n_tokens: int, on_first: Callable[[], None]) -> dict[str, float]:
        """Answers greedily.

        Args:
            image: Path of a file, for a new conversation about it; None continues the previous one.
            question: Text.
            n_tokens: Number of tokens to write.
            on_first: Called once, when the first token is known.

        Returns:
            "n_tokens" that were written, "prompt_tokens" before them, and the peer's own figures, as seconds `_s` or
            counts.
        """


def serve(open_peer: Callable[[], Peer]) -> None:
    """Answers the questions on stdin until it is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints must not mix with the answers

    def say(message: dict[str, Any]) -> None:
        answers.write(f"{json.dumps(message)}\n")
        answers.flush()

    peer = open_peer()
    say({"ready": peer.facts})
    for line in sys.stdin:
        asked = json.loads(line)
        figures = peer.ask(asked["image"], asked["question"], asked["n_tokens"], lambda: say({"first": True}))
        say({"done": figures})
