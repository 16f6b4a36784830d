"""What `compare.py` and a peer's process say to each other: one JSON object a line. Only the standard library.

    the peer     {"ready": {"version": ..., ...}}                       its model is loaded
    compare.py   {"picture": PATH or null, "question": TEXT, "n_tokens": N}     null: goes on in the conversation
    the peer     {"first": true}                                        the first token is known
    the peer     {"done": {"n_tokens": N, "prompt_tokens": P, ...}}     all are; with figures of its own

compare.py takes all times, so every peer is measured by one clock.
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

    def ask(
        self, picture: str | None, question: str, n_tokens: int, tell_first: Callable[[], None]
    ) -> dict[str, float]:
        """Answers with the likeliest tokens.

        Args:
            picture: Path of a file; a new conversation about it. None goes on in the one before.
            question: Text.
            n_tokens: How many to write.
            tell_first: To be called once, when the first token is known.

        Returns:
            "n_tokens" that were written, "prompt_tokens" before them, and figures of the peer's own, in seconds `_s`
            or counts.
        """


def serve(open_peer: Callable[[], Peer]) -> None:
    """Answers the questions on stdin until it is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an engine prints must not come between

    def say(message: dict[str, Any]) -> None:
        answers.write(f"{json.dumps(message)}\n")
        answers.flush()

    peer = open_peer()
    say({"ready": peer.facts})
    for line in sys.stdin:
        asked = json.loads(line)
        figures = peer.ask(asked["picture"], asked["question"], asked["n_tokens"], lambda: say({"first": True}))
        say({"done": figures})
