"""Asks about several images at a time; the model computes their answers together."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.prepared import Damaged, Ready
from edge_llava.captioning.reading import encode
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.session import Session


@dataclass(frozen=True)
class Said:
    """An answer about an image.

    Attributes:
        text: Without surrounding white space.
        finish_reason: As of its last token.
        n_tokens: Of the answer.
        seconds: From the question to its end, and for encoding the image where that was done before.
    """

    text: str
    finish_reason: str
    n_tokens: int
    seconds: float


class Pending(Protocol):
    """An answer that is being computed."""

    def result(self) -> Said:
        """Waits for the answer; raises what went wrong with it."""
        ...


class Answerer(Protocol):
    """What computes answers.

    Attributes:
        n_at_once: Questions that it works on at the same time.
    """

    n_at_once: int

    def prepare(self, ready: Ready, stop: threading.Event) -> Damaged | Ready:
        """Work on an image before its question, in a thread of its own; `stop` is set when it is not needed."""
        ...

    def ask(self, ready: Ready) -> Pending:
        """Begins to answer the question about an image."""
        ...


class Asking:
    """A context in which questions are asked; leaving it ends the answers that were not waited for.

    Attributes:
        n_at_once: See `Answerer`.
    """

    def __init__(self, model: LlavaModel, options: CaptionOptions) -> None:
        self._model, self._options, self.n_at_once = model, options, model.options.parallel
        ahead = options.encode_ahead
        self._encodes_ahead = model.on_gpu if ahead is None else ahead
        self._threads = ThreadPoolExecutor(model.options.parallel, "edge-llava-caption")
        self._changing, self._has_left = threading.Lock(), False
        self._sessions: set[Session] = set()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *unused: object) -> None:
        with self._changing:
            self._has_left = True
            sessions = tuple(self._sessions)
        for session in sessions:
            session.cancel()
        self._threads.shutdown(cancel_futures=True)

    def prepare(self, ready: Ready, stop: threading.Event) -> Damaged | Ready:
        """Encodes an image where that is worth it: see `CaptionOptions.encode_ahead`."""
        return encode(self._model, ready, stop) if self._encodes_ahead else ready

    def ask(self, ready: Ready) -> Future[Said]:
        """Asks about an image; as many at a time as the model answers.

        The future raises what `Session.ask` raises, and EdgeLlavaError if the model is closed in the meantime.
        """
        return self._threads.submit(self._ask, ready)

    def _ask(self, ready: Ready) -> Said:
        session, started = self._model.session(self._options.effective_sampling), time.perf_counter()
        tokens = session.ask(self._options.prompt, image=ready.image)
        with self._changing:
            self._sessions.add(session)
            if self._has_left:
                session.cancel()
        try:
            said = list(tokens)
        finally:
            with self._changing:
                self._sessions.discard(session)
        self._model.check_open()  # another thread may have cut the answer off by closing the model
        seconds = time.perf_counter() - started
        if isinstance(ready.image, ImageEmbedding):
            seconds += ready.image.vision_s + ready.image.projector_s
        text = "".join(token.text for token in said).strip()
        n_tokens = session.timings.decode_tokens if session.timings is not None else len(said)
        return Said(text, str(said[-1].finish_reason), n_tokens, seconds)
