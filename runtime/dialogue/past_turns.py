"""The turns of a conversation, and which of them go when the context is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_llava.runtime.dialogue.answer_history import KnownAnswer
from edge_llava.runtime.runs import ImageRun, Run, TokenRun

OnFull = Literal["error", "drop-oldest"]
_ANSWER_SHARE = 4  # at most this part of the context is kept free for an answer


@dataclass(frozen=True)
class PastTurn:
    """A question in its place in a conversation, with what was answered.

    Attributes:
        question: The user's text.
        runs: The turn's tokens and images, up to where the model writes.
        answer: None while there is none.
    """

    question: str
    runs: Sequence[Run]
    answer: KnownAnswer | None = None

    @property
    def images(self) -> list[ImageRun]:
        """The images of the question."""
        return [run for run in self.runs if isinstance(run, ImageRun)]

    @property
    def n_tokens(self) -> int:
        """Positions in the context."""
        return sum(run.n_tokens for run in list_runs([self]))


def list_runs(turns: Sequence[PastTurn]) -> list[Run]:
    """The conversation of these turns."""
    runs: list[Run] = []
    for turn in turns:
        runs += turn.runs if turn.answer is None else [*turn.runs, TokenRun(turn.answer.ids)]
    return runs


def check_on_full(on_full: str) -> None:
    """Raises ValueError if it is neither "error" nor "drop-oldest"."""
    if on_full not in ("error", "drop-oldest"):
        raise ValueError(f"on_full must be 'error' or 'drop-oldest', not {on_full!r}")


def room_for_prompt(n_ctx: int, max_new_tokens: int) -> int:
    """Positions that a shortened conversation may take, so that its answer is not cut off at once."""
    return n_ctx - min(max_new_tokens, n_ctx // _ANSWER_SHARE)


def turns_to_drop(sizes: Sequence[int], have_images: Sequence[bool], n_positions: int) -> list[int]:
    """Indices of the turns that go, so that the others take at most `n_positions`; of all that may, where none suffice.

    The oldest turns without images go first. Only then the oldest ones with images go, but never the newest of them,
    nor the turn that is asked: the last.
    """
    newest_image = max((index for index, has in enumerate(have_images) if has), default=None)
    may_go = [index for index in range(len(sizes) - 1) if index != newest_image]
    n_left, dropped = sum(sizes), []
    for index in sorted(may_go, key=lambda index: have_images[index]):
        if n_left <= n_positions:
            break
        dropped.append(index)
        n_left -= sizes[index]
    return sorted(dropped)
