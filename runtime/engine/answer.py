"""An answer of the engine, as its client sees it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from edge_llava.device.memory import peak_rss_bytes
from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.answer import AnswerProgress, AnswerStage, FinishReason, Opened, Timings, Token
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.lifetime.gate import Gate
from edge_llava.runtime.request import Request
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

TokenCallback = Callable[[Token], None]
ENGINE_THREAD = "edge-llava-engine"
_KEPT_BACK_S = 0.002  # a reader that is woken for a token takes a core from the threads that compute the next
_POLL_S = 0.2 if os.name == "nt" else None  # on Windows, Ctrl-C does not interrupt a wait without a limit


class Answer:
    """An answer that is waiting, running or over. Thread-safe; its tokens go to the callback that `submit` was given.

    Attributes:
        n_prompt_tokens: Positions of the prompt, those of images among them.
        n_image_tokens: Positions of images.
        n_dropped: Earlier questions, with their answers, that were dropped because the context was full.
        n_cached_tokens: Positions of the prompt that were computed before, or are for another answer at the same
            time; None while it has no place, and complete with the first token. What a preempted answer finds of its
            own does not count.
        tokens: What was sampled so far.
        finish_reason: As of its last token; None while it is not over.
        error: Why it failed; None otherwise.
        is_held: Whether it waits until more of it is read.
        n_missing_images: Images that it waits for.
    """

    def __init__(self, request: Request, tokens: AnswerTokens, on_token: TokenCallback, gate: Gate) -> None:
        self.n_prompt_tokens = sum(run.n_tokens for run in request.runs) + len(request.start.ids)
        self.n_image_tokens = sum(run.n_tokens for run in request.runs if isinstance(run, ImageRun))
        self.n_dropped, self.tokens = request.n_dropped, tokens
        self.n_cached_tokens: int | None = None
        self.finish_reason: FinishReason | None = None
        self.error: BaseException | None = None
        self.is_held = False
        self.n_missing_images = 0
        self._gate, self._credit, self._asked_at = gate, request.credit, request.asked_at
        self._on_token = on_token
        self._on_cancel: Callable[[], None] = _do_nothing
        self._on_credit: Callable[[], None] = _do_nothing
        self._on_over: list[Callable[[], None]] = []
        self._ending, self._has_ended, self._over = threading.Lock(), False, threading.Event()
        self._is_counted = False
        self._kept_back: list[Token] = []
        self._flushed_at = 0.0
        self._n_prefilled = 0
        self._n_emitted = self._n_read = 0  # each is written by one thread only
        self._placed_at = self._first_token_at = self._first_text_at = self._last_token_at = 0.0
        self._vision_s = self._projector_s = self._prefill_s = 0.0

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens.ids)

    @property
    def progress(self) -> AnswerProgress:
        """How far it is; from any thread."""
        n_tokens, n_cached, n_images = self.n_tokens, self.n_cached_tokens, self.n_missing_images
        stage: AnswerStage = "encoding" if n_images else "reading"
        if n_tokens or n_cached is None:
            stage = "writing" if n_tokens else "waiting"
        n_prompt, n_computed = self.n_prompt_tokens, self._n_prefilled
        n_read = n_prompt if n_tokens else min(n_prompt, (n_cached or 0) + n_computed)
        return AnswerProgress(stage, n_images, n_read, n_prompt, n_tokens, n_computed, self._prefill_s)

    def cancel(self) -> None:
        """Ends the answer, from any thread; its last token says "cancelled". An answer that is over stays as it is."""
        if not self._gate.is_elsewhere:
            with self._gate.visiting():
                self._on_cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the answer is over.

        Returns:
            Whether it is.

        Raises:
            EdgeLlavaError: In a forked child, where it never ends; in a callback of the engine, which would wait for
                itself.
        """
        self._gate.check_process()
        if threading.current_thread().name == ENGINE_THREAD:
            raise EdgeLlavaError("a callback of an answer cannot wait for one: they are computed on this thread.")
        with self._gate.visiting():
            while timeout_s is None and not self._over.wait(_POLL_S):
                pass
            return self._over.wait(timeout_s)

    def when_over(self, callback: Callable[[], None]) -> None:
        """Calls a function once the answer is over: on the engine's thread, or now if it is over already."""
        with self._gate.visiting(), self._ending:
            if not self._has_ended:
                self._on_over.append(callback)
                return
        callback()

    def note_read(self) -> None:
        """The reader's: a token was read. An answer with a credit is computed no further ahead than that."""
        self._n_read += 1
        if self.is_held and self._credit is not None and self._n_emitted - self._n_read <= self._credit // 2:
            self._on_credit()

    def timings(self, opened: Opened | None = None) -> Timings:
        """Where the time went so far; what the model itself says is passed through."""
        opened = opened or Opened()
        return Timings(
            load_s=opened.load_s,
            queued_s=_between(self._asked_at, self._placed_at),
            vision_s=self._vision_s,
            projector_s=self._projector_s,
            prefill_tokens=self._n_prefilled,
            prefill_s=self._prefill_s,
            ttft_s=_between(self._asked_at, self._first_text_at),
            decode_tokens=self.n_tokens,
            decode_s=_between(self._first_token_at, self._last_token_at),
            cached_tokens=self.n_cached_tokens or 0,
            peak_rss_bytes=peak_rss_bytes(),
            vision_on=opened.vision_on,
            language_on=opened.language_on,
        )

    @property
    def placed_s(self) -> float:
        """Seconds since it had a place among the running ones; 0 while it has none."""
        return time.perf_counter() - self._placed_at if self._placed_at else 0.0

    def connect(self, on_cancel: Callable[[], None], on_credit: Callable[[], None]) -> None:
        """The engine's: what to call when it is cancelled, and when a held one may continue."""
        self._on_cancel, self._on_credit = on_cancel, on_credit

    def check_credit(self) -> bool:
        """The engine's: whether it may be computed further; if not, it is held from now on."""
        if self._credit is None:
            return True
        n_most = self._credit // 2 if self.is_held else self._credit - 1
        self.is_held = True  # first: the reader, which may be reading now, looks at this
        self.is_held = self._n_emitted - self._n_read > n_most
        return not self.is_held

    def note_place(self, n_cached_tokens: int) -> None:
        """The engine's: it is among the running ones now, or again."""
        if self.n_cached_tokens is None:
            self.n_cached_tokens, self._placed_at = n_cached_tokens, time.perf_counter()
        else:  # what it finds now, or shares from here on, was known then or was computed for it
            self._is_counted = True

    def note_shared(self, n_tokens: int) -> None:
        """The engine's: positions of it were computed for another, or came from disk."""
        if not self._is_counted:
            self.n_cached_tokens = (self.n_cached_tokens or 0) + n_tokens

    def note_image(self, embedding: ImageEmbedding) -> None:
        """The engine's: an image of it was encoded."""
        self._vision_s += embedding.vision_s
        self._projector_s += embedding.projector_s

    def note_prefill(self, seconds: float, n_positions: int = 0) -> None:
        """The engine's: a part of its prompt was computed, or read from disk (no positions)."""
        if not self._first_token_at:  # and not what a preempted answer computes again
            self._prefill_s += seconds
            self._n_prefilled += n_positions

    def emit(self, token: Token) -> None:
        """The engine's: hands a token over. Raises what the callback raises."""
        now = time.perf_counter()
        if token.id is not None:
            self._first_token_at, self._last_token_at = self._first_token_at or now, now
            if token.text or token.finish_reason:
                self._first_text_at = self._first_text_at or now
        self._n_emitted += 1
        self._kept_back.append(token)
        if self._credit is None or token.finish_reason is not None or now - self._flushed_at >= _KEPT_BACK_S:
            self._flushed_at = now
            self.flush()

    def flush(self) -> None:
        """The engine's: hands over what was kept back, not to wake a reader for each token. Raises as `emit`."""
        tokens, self._kept_back = self._kept_back, []
        on_token, self._on_token = self._on_token, _do_nothing  # one that raises is not called again
        for token in tokens:
            on_token(token)
        self._on_token = on_token

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """The engine's: nothing more comes."""
        self.finish_reason, self.error = reason, error
        self._on_token = _do_nothing  # a client that keeps the answer keeps nothing else
        self._on_cancel = self._on_credit = _do_nothing
        with self._ending:
            self._has_ended = True
            callbacks, self._on_over = self._on_over, []
        for callback in reversed(callbacks):  # who asked first is told last, after the session knows
            callback()
        self._over.set()


def _do_nothing(*_: object) -> None:
    pass


def _between(start: float, end: float) -> float:
    return max(0.0, end - start) if end else 0.0
