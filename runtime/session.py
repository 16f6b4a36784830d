"""A conversation: turns in, tokens out. Keeps what was said; the decoder keeps what is computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.answer import Timings, Token
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.dialogue.past_turns import (
    OnFull,
    PastTurn,
    check_on_full,
    first_images,
    list_runs,
    room_for_prompt,
    turns_to_drop,
)
from edge_llava.runtime.dialogue.prompt import build_turn
from edge_llava.runtime.dialogue.turn_plan import check_length, check_room, check_text, plan_turn
from edge_llava.runtime.engine.answer_reader import AnswerReader
from edge_llava.runtime.engine.turn import Turn
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.lifetime.cancel import Cancelled, StopFlag
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.runs import ImageRun, Run, TokenRun, image_ends
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.images.opening import ImageSource

if TYPE_CHECKING:
    from edge_llava.runtime.async_answer import AsyncAnswer
    from edge_llava.runtime.model import LlavaModel

ImageInput = ImageSource | Image | ImageEmbedding


class Session:
    """One conversation with a model. Create it with `LlavaModel.session()`.

    Attributes:
        options: How answers are drawn; may be replaced between answers.
        on_full: What happens when a question does not fit in the context; may be replaced, too. "error" raises
            ContextOverflow. "drop-oldest" drops the oldest questions with their answers: those without images first,
            then those with images, except for the newest of these. The system text always stays.
        n_dropped: Questions that were dropped since the conversation began.
        timings: Of the last answer; None before the first.
    """

    def __init__(self, model: LlavaModel, options: SamplingOptions, on_full: OnFull = "error") -> None:
        check_on_full(on_full)
        self.options, self.on_full = options, on_full
        self.n_dropped = 0
        self.timings: Timings | None = None
        self._model = model
        self._past: list[PastTurn] = []
        self._cancel: threading.Event = StopFlag()
        self._busy = False
        self._asked: Turn | None = None  # the question that may be answered next
        self._abandoned: Future[None] | None = None  # a thread that may still be leaving its answer

    def ask(self, question: str, *, image: ImageInput | Sequence[ImageInput] | None = None) -> Iterator[Token]:
        """Asks one question; the answer is computed while the iterator is read.

        Args:
            question: The user's text. Special tokens written in it are recognized, as in training.
            image: Images that belong to this question: one or several, each an ImageEmbedding or what `open_picture`
                takes: a path, the bytes of a file, a file object, a Pillow image or an array. Images of earlier turns
                stay in the conversation.

        Returns:
            An iterator of tokens. Closing it early ends the answer there; the conversation can go on.

        Raises:
            ImageError: If a picture cannot be read or an embedding belongs to another bundle.
            ContextOverflow: If the conversation does not fit, see `on_full`; nothing was computed and nothing changed.
            EdgeLlavaError: If this session is still answering, or its model is closed.
            ValueError: If the question is no valid Unicode.
        """
        with self._model.in_use():
            self._check_idle()
            check_text(question, "the question")
            started = time.perf_counter()
            self._cancel = StopFlag()  # what an earlier question began may not have seen its own yet
            self._asked = self._plan(question, _as_list(image), started)
            return AnswerReader(self._model.gate, self._answer(self._asked))

    def ask_async(self, question: str, *, image: ImageInput | Sequence[ImageInput] | None = None) -> AsyncAnswer:
        """As `ask`, for `async for`: a thread computes the answer, and the event loop is never blocked."""
        from edge_llava.runtime.async_answer import AsyncAnswer

        return AsyncAnswer(self, lambda: self.ask(question, image=image))

    def show_prompt(self, question: str, *, image: ImageInput | Sequence[ImageInput] | None = None) -> str:
        """What the model would read of this question: every token's text, special ones by name; nothing is computed.

        A picture shows as "<image: 576 positions>". Arguments and errors as `ask`.
        """
        with self._model.in_use():
            self._check_idle()
            turn = self._plan(question, _as_list(image), time.perf_counter())
            shown = [
                f"<image: {run.n_tokens} positions>".encode()
                if isinstance(run, ImageRun)
                else b"".join(self._model.decoder.piece(token, special=True) for token in run.ids)
                for run in turn.runs
            ]
        return b"".join(shown).decode("utf-8", "replace")

    def cancel(self) -> None:
        """Stops the current answer, from any thread: encoding, prefill and decode. The last token says "cancelled"."""
        self._cancel.set()

    def abandon(self, reading: Future[None]) -> None:
        """Cancels the answer that a thread is reading; whatever is asked next waits for that thread to end."""
        self._abandoned = reading
        self.cancel()

    def clear(self) -> None:
        """Forgets the conversation; the next question begins a new one.

        Raises:
            EdgeLlavaError: If this session is still answering.
        """
        self.check_process()
        self._check_idle()
        self._asked = None
        self._past = []
        self.n_dropped = 0

    @property
    def images(self) -> list[ImageRun]:
        """Every image of the conversation, in order."""
        return [image for turn in self._past for image in turn.images]

    @property
    def n_positions(self) -> int:
        """Context positions that the conversation takes so far."""
        return sum(turn.n_tokens for turn in self._past)

    @property
    def _history(self) -> list[Run]:
        return list_runs(self._past)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked child of the process that opened the model."""
        return self._model.gate.is_elsewhere

    def check_process(self) -> None:
        """
        Raises:
            EdgeLlavaError: In a forked child of the process that opened the model.
        """
        self._model.gate.check_process()

    def _check_idle(self) -> None:
        if self._abandoned is not None:
            wait([self._abandoned])
            self._abandoned = None
        if self._busy:
            raise EdgeLlavaError("this session is still answering. Read that answer to its end, or close() it, first.")

    def _plan(self, question: str, inputs: list[ImageInput], started: float) -> Turn:
        images = [self._model.place_image(image) for image in inputs]
        decoder, past = self._model.decoder, self._past
        check_length([question], decoder, decoder.n_ctx)
        runs = self._plan_turn(past, question, images)
        if self.on_full == "drop-oldest":
            n_room = room_for_prompt(decoder.n_ctx, self.options.max_new_tokens)
            while dropped := _which_to_drop(past, runs, n_room):
                past = self._plan_again([turn for index, turn in enumerate(past) if index not in dropped])
                runs = self._plan_turn(past, question, images)
        check_room(runs, sum(turn.n_tokens for turn in past), decoder.n_ctx, self._model.manifest.language)
        return Turn(question, runs, past, started)

    def _plan_turn(self, past: Sequence[PastTurn], question: str, images: Sequence[ImageRun]) -> list[Run]:
        template, image_marks = self._model.template, self._model.manifest.language.image_marks
        segments = build_turn(template, question, len(images), is_first=not past, image_marks=image_marks)
        carry = past[-1].carry if past else ""
        return plan_turn(self._model.decoder, template, segments, images, is_first=not past, carry=carry)

    def _plan_again(self, turns: Sequence[PastTurn]) -> list[PastTurn]:
        """The same turns in a conversation of their own: each goes on from the one before it."""
        past: list[PastTurn] = []
        for turn in turns:
            past.append(replace(turn, runs=tuple(self._plan_turn(past, turn.question, turn.images))))
        return past

    def _answer(self, turn: Turn) -> Generator[Token, None, None]:
        if self._asked is not turn or self._busy:
            raise EdgeLlavaError("this question was given up: the session was asked again, or cleared, meanwhile.")
        self._busy = True
        answer = AnswerTokens(
            self._model.decoder, (self._model.template.stop, *self.options.stop), self.options.max_new_tokens
        )
        held_turn = False
        try:
            with self._model.answering(self._cancel):
                # while another answer is computed; what looks computed already may turn out otherwise in our turn
                self._encode(turn, self._model.prefixes.count(turn.conversation))
                self._model.turns.acquire(self._cancel)
                held_turn = True
                self._model.check_open()
                with closing(Sampler(self.options, self._model.decoder.vocabulary)) as sampler:
                    self._prefill(turn)
                    self._remember(turn)
                    yield from self._decode(turn, answer, sampler)
                if not self._model.closed:
                    with suppress(Cancelled):  # the answer is complete
                        self._model.prefixes.keep(first_images(self._past), self._cancel)
        except Cancelled:
            if not held_turn:
                self._model.check_open()
            yield answer.end("cancelled")
        finally:
            if not self.is_elsewhere:  # a forked child inherits answers, and locks that it must not touch
                self._end(turn, answer, held_turn=held_turn)

    def _end(self, turn: Turn, answer: AnswerTokens, *, held_turn: bool) -> None:
        turn.decode_tokens = len(answer.ids)
        if answer.ids:
            self._past[-1] = replace(self._past[-1], answer=answer.whole_ids(), carry=answer.remainder())
        if held_turn:
            self._model.turns.release()
        for image, _ in image_ends(turn.conversation):
            image.stop_encoding()
        self.timings = turn.measure(self._model.load_s)
        self._busy, self._asked = False, None

    def _encode(self, turn: Turn, n_cached: int) -> list[ImageRun]:
        """Has the rows computed of the pictures that reach beyond the first `n_cached` positions, where nobody has yet.

        Returns:
            Pictures whose rows are on their way: of a tower that must be opened first, and takes one core for it. The
            text before them can be computed meanwhile.
        """
        images = [image for image, end in image_ends(turn.conversation) if end > n_cached]
        for image in images:
            self._model.start_encoding(image, self._cancel)
        if self._model.tower_is_open:
            for image in images:
                self._wait_for(image, turn)
        return [image for image in images if image.embedding is None]

    def _wait_for(self, image: ImageRun, turn: Turn) -> None:
        if image.embedding is None:
            embedding = self._model.finish_encoding(image, self._cancel)
            turn.vision_s += embedding.vision_s
            turn.projector_s += embedding.projector_s

    def _prefill(self, turn: Turn) -> None:
        decoder, conversation = self._model.decoder, turn.conversation
        with turn.prefilling():
            skip = turn.cached_tokens = self._model.prefixes.reuse(conversation, self._cancel)
        awaited = self._encode(turn, skip)
        for run in conversation:
            if isinstance(run, ImageRun) and skip < run.n_tokens:
                self._wait_for(run, turn)
                with turn.prefilling():
                    decoder.prefill_embedding(run.rows[skip:], run.identity, skip, self._cancel)
            elif isinstance(run, TokenRun) and skip < run.n_tokens:
                n_opening = int(any(image.embedding is None for image in awaited))
                with turn.prefilling():
                    decoder.prefill_tokens(run.ids[skip:], self._cancel, n_spared=n_opening)
            skip = max(0, skip - run.n_tokens)
        turn.prefill_tokens = sum(run.n_tokens for run in conversation) - turn.cached_tokens

    def _remember(self, turn: Turn) -> None:
        self.n_dropped += len(self._past) - len(turn.past)
        self._past = [*turn.past, PastTurn(turn.question, tuple(turn.runs))]

    def _decode(self, turn: Turn, answer: AnswerTokens, sampler: Sampler) -> Iterator[Token]:
        decoder, started = self._model.decoder, time.perf_counter()
        while True:
            id = sampler.sample(decoder.context)
            ranking = sampler.rank(decoder.context, id)
            token = answer.take(id, is_full=decoder.n_past >= decoder.n_ctx, ranking=ranking)
            yield self._time(turn, token, started)
            if token.finish_reason is not None:
                return
            if self._cancel.is_set():
                raise Cancelled
            decoder.decode(id)

    def _time(self, turn: Turn, token: Token, started: float) -> Token:
        now = time.perf_counter()
        turn.decode_s = now - started
        if not turn.ttft_s and (token.text or token.finish_reason):
            turn.ttft_s = now - turn.started
        return token


def _which_to_drop(past: Sequence[PastTurn], runs: Sequence[Run], n_room: int) -> list[int]:
    sizes = [*(turn.n_tokens for turn in past), sum(run.n_tokens for run in runs)]
    have_images = [*(bool(turn.images) for turn in past), any(isinstance(run, ImageRun) for run in runs)]
    return turns_to_drop(sizes, have_images, n_room)


def _as_list(image: ImageInput | Sequence[ImageInput] | None) -> list[ImageInput]:
    if image is None:
        return []
    return list(image) if isinstance(image, (list, tuple)) else [image]  # type: ignore[list-item]
