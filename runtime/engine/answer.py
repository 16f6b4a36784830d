"""An answer of the batch engine, as its client sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.lifetime.gate import Gate

TokenCallback = Callable[[Token], None]


@dataclass(frozen=True)
class AnswerTimings:
    """Where the time of an answer went, in seconds; what did not happen yet is 0.

    Attributes:
        queued_s: From `submit` until it had a place among the running ones.
        vision_s: Tower and projector, of pictures that were encoded while it waited for them; also for others at once.
        prefill_s: From its place to its first token, with the waiting for pictures and what was computed for others.
        ttft_s: From `submit` to its first text.
        decode_s: From its first token to its last.
    """

    queued_s: float
    vision_s: float
    prefill_s: float
    ttft_s: float
    decode_s: float


class Answer:
    """An answer that is waiting, running or over. Thread-safe; its tokens go to the callback that `submit` was given.

    Attributes:
        n_prompt_tokens: Positions of the prompt, those of pictures among them.
        n_image_tokens: Positions of pictures.
        n_dropped: Earlier questions, with their answers, that were dropped because the context was full.
        n_cached_tokens: Positions of the prompt that were computed before, or are for another answer at the same
            time; None while it has no place, and complete with the first token. What an answer that gave its place up
            finds of its own does not count.
        n_tokens: Tokens of the answer so far.
        finish_reason: As of its last token; None while it is not over.
        error: Why it failed; None otherwise.
    """

    def __init__(
        self,
        n_prompt_tokens: int,
        n_image_tokens: int,
        on_token: TokenCallback,
        on_cancel: Callable[[], None],
        gate: Gate,
    ) -> None:
        """
        Args:
            n_prompt_tokens: Positions of the prompt.
            n_image_tokens: Those of pictures.
            on_token: Told every token.
            on_cancel: Told that nobody waits for more.
            gate: Of the engine.
        """
        self._gate = gate
        self.n_prompt_tokens, self.n_image_tokens = n_prompt_tokens, n_image_tokens
        self.n_dropped = 0
        self.n_cached_tokens: int | None = None
        self._is_counted = False
        self.n_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.error: BaseException | None = None
        self._on_token, self._on_cancel = on_token, on_cancel
        self._over = threading.Event()
        self._submitted_at = time.perf_counter()
        self._placed_at = self._first_token_at = self._first_text_at = self._last_token_at = 0.0
        self._vision_s = 0.0

    def cancel(self) -> None:
        """Ends the answer, from any thread; its last token says "cancelled". An answer that is over stays as it is."""
        if not self._gate.is_elsewhere:
            with self._gate.visiting():
                self._on_cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the answer is over and its last token was told.

        Returns:
            Whether it is.

        Raises:
            EdgeLlavaError: In a forked child, where it never ends.
        """
        self._gate.check_process()
        with self._gate.visiting():
            return self._over.wait(timeout_s)

    @property
    def timings(self) -> AnswerTimings:
        """Where the time went so far."""
        return AnswerTimings(
            queued_s=_between(self._submitted_at, self._placed_at),
            vision_s=self._vision_s,
            prefill_s=_between(self._placed_at, self._first_token_at),
            ttft_s=_between(self._submitted_at, self._first_text_at),
            decode_s=_between(self._first_token_at, self._last_token_at),
        )

    @property
    def placed_s(self) -> float:
        """Seconds since it had a place among the running ones; 0 while it has none."""
        return time.perf_counter() - self._placed_at if self._placed_at else 0.0

    def note_place(self, n_cached_tokens: int) -> None:
        """The engine's: it is among the running ones now, or again."""
        if self.n_cached_tokens is None:
            self.n_cached_tokens, self._placed_at = n_cached_tokens, time.perf_counter()
        else:  # what it finds now, or shares from here on, was known then or was computed for it
            self._is_counted = True

    def note_shared(self, n_tokens: int) -> None:
        """The engine's: positions of it were computed for another."""
        if not self._is_counted:
            self.n_cached_tokens = (self.n_cached_tokens or 0) + n_tokens

    def note_picture(self, vision_s: float) -> None:
        """The engine's: a picture of it was encoded."""
        self._vision_s += vision_s

    def tell(self, token: Token, n_tokens: int) -> None:
        """The engine's: hands a token on.

        Raises: what the callback raises.
        """
        now = time.perf_counter()
        if token.id is not None:
            self._first_token_at, self._last_token_at = self._first_token_at or now, now
            if token.text or token.finish_reason:
                self._first_text_at = self._first_text_at or now
        self.n_tokens = n_tokens
        on_token, self._on_token = self._on_token, _ignore  # one that raises is not called again
        on_token(token)
        self._on_token = on_token

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """The engine's: nothing more comes."""
        self.finish_reason, self.error = reason, error
        self._on_token, self._on_cancel = _ignore, _do_nothing  # a client that keeps the answer keeps nothing else
        self._over.set()


def _ignore(token: Token) -> None:
    pass


def _do_nothing() -> None:
    pass


def _between(start: float, end: float) -> float:
    return max(0.0, end - start) if end else 0.0
