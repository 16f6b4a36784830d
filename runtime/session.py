"""A conversation: questions in, tokens out. It keeps what was said; the engine keeps what is computed."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.answer import AnswerProgress, Opened, Timings, Token
from edge_llava.runtime.answer_reader import AnswerReader
from edge_llava.runtime.dialogue.messages import ImageInput, Message
from edge_llava.runtime.dialogue.past_turns import OnFull, PastTurn, check_on_full, list_runs
from edge_llava.runtime.dialogue.planner import Planner
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.engine.engine import Engine
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.request import Request
from edge_llava.runtime.runs import ImageRun, Position, list_positions, up_to_last_image
from edge_llava.runtime.turn import Turn

if TYPE_CHECKING:
    from edge_llava.runtime.async_answer import AsyncAnswer

_CREDIT = 32  # tokens that an answer is computed ahead of its reader
_POLL_S = 0.2 if os.name == "nt" else None  # on Windows, Ctrl-C does not interrupt a wait without a limit
_owners = count(1)


class Session:
    """One conversation with a model. Create it with `LlavaModel.session()`.

    Attributes:
        options: How answers are sampled; may be replaced between answers.
        on_full: What happens when a question does not fit in the context; may be replaced, too. "error" raises
            ContextOverflow. "drop-oldest" drops the oldest questions with their answers: those without images first,
            then those with images, except for the newest of these. The system text always stays.
        n_dropped: Questions that were dropped since the conversation began.
        timings: Of the last answer; None before the first.
    """

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        opened: Callable[[], Opened],
        options: SamplingOptions,
        on_full: OnFull = "error",
    ) -> None:
        """What the model says of itself, `opened`, goes into the timings."""
        check_on_full(on_full)
        self.options, self.on_full = options, on_full
        self.n_dropped = 0
        self.timings: Timings | None = None
        self._engine, self._planner, self._opened = engine, planner, opened
        self._system, self._past = "", list[PastTurn]()
        self._asked: Turn | None = None  # the question that may be answered next, or is being answered
        self._prepared: tuple[list[Position], Answer] | None = None
        self._owner = next(_owners)
        weakref.finalize(self, engine.forget, self._owner).atexit = False

    def ask(self, question: str, *, image: ImageInput | Sequence[ImageInput] | None = None) -> Iterator[Token]:
        """Asks one question; computing the answer begins when the iterator is first read, and stays a little ahead.

        Args:
            question: The user's text. Special tokens written in it are recognized, as in training.
            image: Images that belong to this question: one or several, each an ImageEmbedding or what `Image.open`
                takes: a path, the bytes of a file, a file object, a Pillow image or an array. Images of earlier turns
                stay in the conversation.

        Returns:
            An iterator of tokens. Closing it early ends the answer there; the conversation can continue.

        Raises:
            ImageError: If an image cannot be read or an embedding belongs to another bundle.
            ContextOverflow: If the conversation does not fit, see `on_full`; nothing was computed and nothing changed.
            EdgeLlavaError: If this session is still answering, or its model is closed.
            ValueError: If the question is not valid Unicode.
        """
        turn = self._ask(question, image)
        return AnswerReader(self._read(turn), turn)

    def ask_async(self, question: str, *, image: ImageInput | Sequence[ImageInput] | None = None) -> AsyncAnswer:
        """As `ask`, for `async for`; the event loop is never blocked."""
        from edge_llava.runtime.async_answer import AsyncAnswer

        def begin(hand_over: Callable[[Token | None], None]) -> Turn:
            turn = self._ask(question, image)
            self._begin(turn, hand_over).when_over(lambda: hand_over(None))
            return turn

        return AsyncAnswer(self._engine.gate, begin)

    def prepare(self, image: ImageInput | Sequence[ImageInput] | None) -> Answer | None:
        """Begins to compute what stands before a question about these images: the images, and the conversation so far.

        It is computed in the background, while no answer is. A question about the same images continues it from
        wherever it is; one about others ends it, as does another `prepare`.

        Args:
            image: As of `ask`; None or empty only ends what was prepared before.

        Returns:
            A handle to wait for or cancel; None if there is nothing to compute.

        Raises:
            QueueFull: If as much is prepared as may.
            EdgeLlavaError: Otherwise as `ask`.
        """
        with self._engine.gate.inside():
            self._check_idle()
            self._drop_prepared()
            images = _as_tuple(image)
            if not images:
                return None
            self._engine.check_room(is_preparation=True)
            message = Message("user", "", images)
            turns = self._planner.continue_with(
                self._past, message, self.on_full, self.options.max_new_tokens, self._system
            )
            # earlier images are in other questions, too, which wait for them on their own
            runs = [
                replace(run, encoding=None) if isinstance(run, ImageRun) else run
                for run in up_to_last_image(list_runs(turns))
            ]
            request = Request(runs, SamplingOptions(), (), owner=self._owner, is_preparation=True)
            prepared = self._engine.submit(request, _ignore)
            self._prepared = list_positions(runs), prepared
            return prepared

    def show_prompt(self, question: str, *, image: ImageInput | Sequence[ImageInput] | None = None) -> str:
        """What the model would read of this question: every token's text, special ones by name; nothing is computed.

        An image shows as "<image: 576 positions>". Arguments and errors as `ask`.
        """
        with self._engine.gate.inside():
            turn, piece = self._plan(question, image), self._engine.language.piece
            shown = [
                f"<image: {run.n_tokens} positions>".encode()
                if isinstance(run, ImageRun)
                else b"".join(piece(token, special=True) for token in run.ids)
                for run in turn.turns[-1].runs
            ]
        return b"".join(shown).decode("utf-8", "replace")

    def cancel(self) -> None:
        """Stops the current answer, from any thread: encoding, prefill and decode. The last token says "cancelled"."""
        if (turn := self._asked) is not None:
            turn.cancel()

    def resume(self, messages: Sequence[Message]) -> None:
        """Replaces the conversation by another one, which the next question continues.

        Args:
            messages: A system message for the place of the template's own text, or none; then questions, each with its
                answer, or none.

        Raises:
            ImageError: As `ask`.
            ContextOverflow: If the messages do not fit, see `on_full`; nothing changed.
            EdgeLlavaError: As `ask`.
            ValueError: If the messages are not such a conversation, or a text is not valid Unicode.
        """
        with self._engine.gate.inside():
            self._check_idle()
            system, past = self._planner.resume(messages, self.on_full, self.options.max_new_tokens)
        self.clear()
        self._system, self._past = system, past
        self.n_dropped = sum(message.role == "assistant" for message in messages) - len(past)

    def clear(self) -> None:
        """Forgets the conversation, but not its system text; the next question begins a new one.

        Raises:
            EdgeLlavaError: If this session is still answering.
        """
        self._engine.gate.check_process()
        self._check_idle()
        self._drop_prepared()
        self._asked = None
        self._past = []
        self.n_dropped = 0

    @property
    def progress(self) -> AnswerProgress | None:
        """Progress of the answer being computed, from any thread; None where none is."""
        turn = self._asked
        return turn.answer.progress if turn is not None and turn.answer is not None else None

    @property
    def images(self) -> list[ImageRun]:
        """Every image of the conversation, in order."""
        return [image for turn in self._past for image in turn.images]

    @property
    def n_positions(self) -> int:
        """Context positions that the conversation takes so far."""
        return sum(turn.n_tokens for turn in self._past)

    def _ask(self, question: str, image: ImageInput | Sequence[ImageInput] | None) -> Turn:
        with self._engine.gate.inside():
            self._asked = turn = self._plan(question, image)
            return turn

    def _plan(self, question: str, image: ImageInput | Sequence[ImageInput] | None) -> Turn:
        self._check_idle()
        started = time.perf_counter()
        message = Message("user", question, _as_tuple(image))
        turns = self._planner.continue_with(
            self._past, message, self.on_full, self.options.max_new_tokens, self._system
        )
        return Turn(turns, started, self._engine.gate, self._conclude)

    def _check_idle(self) -> None:
        if (turn := self._asked) is not None and turn.answer is not None and turn.is_left:
            turn.answer.wait()
            if self._asked is turn:  # a signal handler interrupted the end of the answer
                self._conclude(turn)
        if (turn := self._asked) is not None and turn.answer is not None:
            raise EdgeLlavaError("this session is still answering. Read that answer to its end, or close() it, first.")

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            self._prepared[1].cancel()
            self._prepared = None

    def _begin(self, turn: Turn, on_token: Callable[[Token], None]) -> Answer:
        """Has the engine answer a question that was planned."""
        if self._asked is not turn or turn.answer is not None:
            raise EdgeLlavaError("this question was superseded: the session was asked another one, or cleared.")
        runs = list_runs(turn.turns)
        if self._prepared is not None:
            wanted, _ = self._prepared
            if list_positions(runs)[: len(wanted)] != wanted:
                self._drop_prepared()
        request = Request(
            runs,
            self.options,
            (*self._planner.template.stops, *self.options.stop),
            owner=self._owner,
            to_disk=up_to_last_image(turn.turns[0].runs),
            credit=_CREDIT,
            asked_at=turn.asked_at,
        )
        turn.answer = answer = self._engine.submit(request, on_token)
        self._prepared = None
        if turn.is_cancelled:
            answer.cancel()
        return answer

    def _read(self, turn: Turn) -> Generator[Token, None, None]:
        arrived: SimpleQueue[Token] = SimpleQueue()
        try:
            self._begin(turn, arrived.put)
            while True:
                token = turn.read(_take(arrived))
                if token.finish_reason != "error":
                    yield token
                if token.finish_reason is not None:
                    break
        finally:
            if not self._engine.gate.is_elsewhere:  # a forked child inherits answers that it cannot end
                turn.leave()
                if turn.answer is not None and not turn.is_dropped:
                    turn.answer.wait()
        turn.raise_error()

    def _conclude(self, turn: Turn) -> None:
        """Takes into the conversation what was read of an answer that is over."""
        turns = turn.conclude()
        if turns is not None:
            self.n_dropped += len(self._past) + 1 - len(turns)
            self._past = turns
        if turn.answer is not None:
            self.timings = turn.answer.timings(self._opened())
        self._asked = None


def _ignore(token: Token) -> None:
    pass


def _take(arrived: SimpleQueue[Token]) -> Token:
    while True:
        try:
            return arrived.get(timeout=_POLL_S)
        except Empty:
            continue


def _as_tuple(image: ImageInput | Sequence[ImageInput] | None) -> tuple[ImageInput, ...]:
    if image is None:
        return ()
    return tuple(image) if isinstance(image, (list, tuple)) else (image,)  # type: ignore[return-value]
