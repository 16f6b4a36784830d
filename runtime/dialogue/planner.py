"""Conversations as runs of tokens and image rows: question by question for a session, all at once for messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edge_llava.bundle.templates import Template, find_template
from edge_llava.errors import ContextOverflow
from edge_llava.home.image_files.opening import ImageSource
from edge_llava.runtime.dialogue.answer_history import AnswerHistory, KnownAnswer
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.dialogue.messages import Dialogue, Exchange, Prompt, RawPrompt, check_text, read_messages
from edge_llava.runtime.dialogue.past_turns import OnFull, PastTurn, list_runs, room_for_prompt, turns_to_drop
from edge_llava.runtime.dialogue.prompt import build_turn
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.request import AnswerStart, Request
from edge_llava.runtime.runs import ImageRun, Run, TokenRun, up_to_last_image
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.tower import Tower

_READ_AT_ONCE = 100_000  # characters; half a second at the worst, and the number of positions is exact
_SEAM = 4  # tokens that a text may have more in its place, where it is tokenized together with others
_Placed = tuple[Exchange, list[ImageRun]]


class Planner:
    """Plans conversations for a bundle. Thread-safe.

    Attributes:
        template: The bundle's conversation template.
        history: What was answered to messages: an answer that is among it is read as the tokens it was, so that what
            was computed of the conversation can be used again.
    """

    def __init__(self, language: LanguageModel, tower: Tower, n_ctx: int) -> None:
        """A conversation may take `n_ctx` positions."""
        self.template, self.history = find_template(language.spec.template), AnswerHistory()
        self._language, self._tower, self._n_ctx = language, tower, n_ctx

    def continue_with(
        self,
        past: Sequence[PastTurn],
        question: str,
        images: Iterable[ImageSource | ImageEmbedding | Image],
        on_full: OnFull,
        max_new_tokens: int,
    ) -> list[PastTurn]:
        """The turns of a session that stay, and the question after them.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
            ContextOverflow: If it does not fit; `on_full` says whether turns may be dropped for it.
            ValueError: If the question is not valid Unicode.
        """
        placed = [self._tower.place(image) for image in images]
        check_text(question, "the question")
        self._check_length([question])
        turns = [*past, PastTurn(question, self._next(past, question, placed))]
        if on_full == "drop-oldest":
            n_room = room_for_prompt(self._n_ctx, max_new_tokens)
            while dropped := turns_to_drop(
                [turn.n_tokens for turn in turns], [bool(turn.images) for turn in turns], n_room
            ):
                turns = self._plan_again([turn for index, turn in enumerate(turns) if index not in dropped])
        self._check_room(turns[-1].runs, turns[:-1])
        return turns

    def request(self, prompt: Prompt, options: SamplingOptions, on_full: OnFull = "error", salt: str = "") -> Request:
        """What to ask the engine for, of messages to answer or a text to continue.

        Answers and images of another salt are not known to it.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
            ContextOverflow: If it does not fit; `on_full` says whether the oldest messages may be dropped.
            ValueError: If the messages are not a conversation, or a text is not valid Unicode.
        """
        if isinstance(prompt, RawPrompt):
            start = AnswerStart(keeps_space=True)
            return Request(self._plan_text(prompt.text), options, options.stop, start, salt)
        dialogue = read_messages(prompt)
        n_room = room_for_prompt(self._n_ctx, options.max_new_tokens) if on_full == "drop-oldest" else None
        turns = self.plan(dialogue, salt, n_room)
        runs = list_runs(turns)
        begun = dialogue.answer_start
        start = self._plan_start(begun, turns, salt)

        def remember(tokens: AnswerTokens) -> None:  # and not the dialogue, which holds the images as they were given
            if tokens.ids:
                self.history.remember(runs, begun + tokens.text, tokens.known(start.ids), salt)

        return Request(
            runs,
            options,
            (self.template.stop, *options.stop),
            start,
            salt,
            to_disk=up_to_last_image(turns[0].runs),
            n_dropped=len(dialogue.exchanges) - len(turns),
            on_end=remember,
        )

    def plan(self, dialogue: Dialogue, salt: str = "", n_room: int | None = None) -> list[PastTurn]:
        """The same turns that a session would have had; without the oldest, where only `n_room` positions may be taken.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
            ContextOverflow: If it does not fit.
        """
        system, exchanges = dialogue.system, dialogue.exchanges
        template = self.template.with_system(system) if system.strip() else self.template
        # an image is opened once, since a file can be read only once, and not before the turns before it fit
        placed: Iterable[_Placed] = (
            (exchange, [self._tower.place(image, salt=salt) for image in exchange.question.images])
            for exchange in exchanges
        )
        if n_room is not None:
            n_room -= self._count(template.opening) + self._count(dialogue.answer_start)
            placed = self._shorten(list(placed), template, n_room)
            exchanges = tuple(exchange for exchange, _ in placed)
        said = [text for exchange in exchanges for text in (exchange.question.text, exchange.answer or "")]
        self._check_length([system, *said, dialogue.answer_start])
        turns: list[PastTurn] = []
        for exchange, images in placed:
            text, places, answer = exchange.question.text, exchange.question.places, exchange.answer
            turn = PastTurn(text, self._next(turns, text, images, template, places))
            self._check_room(turn.runs, turns)
            if answer is not None:
                known = self.history.find(list_runs([*turns, turn]), answer, salt) or self._tokenize_answer(answer)
                turn = replace(turn, answer=known)
            turns.append(turn)
        return turns

    def _next(
        self,
        past: Sequence[PastTurn],
        question: str,
        images: Sequence[ImageRun],
        template: Template | None = None,
        places: Sequence[int] = (),
    ) -> list[Run]:
        """The runs of a question after others; the text on each side of an image is tokenized on its own, BOS once."""
        template, language, is_first = template or self.template, self._language, not past
        marks = language.spec.image_marks
        first, *others = build_turn(
            template, question, len(images), is_first=is_first, image_marks=marks, places=places
        )
        carry = past[-1].answer.carry if past and past[-1].answer is not None else ""
        joins = bool(carry) or (template.joins_text and not is_first)
        ids = language.tokenize_within(carry + first) if joins else language.tokenize(first, add_bos=is_first)
        runs: list[Run] = [TokenRun(tuple(ids))]
        for image, text in zip(images, others, strict=True):
            runs += [image, TokenRun(tuple(language.tokenize(text, add_bos=False)))]
        return runs

    def _plan_again(self, turns: Sequence[PastTurn]) -> list[PastTurn]:
        """The same turns in a conversation of their own: each continues the one before it."""
        again: list[PastTurn] = []
        for turn in turns:
            again.append(replace(turn, runs=self._next(again, turn.question, turn.images)))
        return again

    def _plan_start(self, text: str, turns: Sequence[PastTurn], salt: str) -> AnswerStart:
        """What an answer begins with that was given as text; if it is only white space, it begins from nothing."""
        if not text.strip():
            return AnswerStart()
        known = self.history.find(list_runs(turns), text, salt)
        if known is not None and self._spell(known).lstrip() == text.lstrip():
            # continued exactly as it was sampled, which may be in other tokens than the text alone would have
            start = AnswerStart((*known.ids, *self._language.tokenize_within(known.carry)), keeps_space=True)
        else:
            start = AnswerStart(self._tokenize_answer(text.rstrip(" ")).ids, keeps_space=text[-1] != " ")
        self._check_room([TokenRun(start.ids)], turns)
        return start

    def _plan_text(self, text: str) -> list[Run]:
        """The run of a text that is continued without a template."""
        check_text(text, "the prompt")
        self._check_length([text])
        runs: list[Run] = [TokenRun(tuple(self._language.tokenize(text, add_bos=True)))]
        self._check_room(runs)
        return runs

    def _shorten(self, placed: Sequence[_Placed], template: Template, n_room: int) -> list[_Placed]:
        sizes = [self._size(exchange, images, template) for exchange, images in placed]
        dropped = turns_to_drop(sizes, [bool(images) for _, images in placed], n_room)
        return [each for index, each in enumerate(placed) if index not in dropped]

    def _size(self, exchange: Exchange, images: Sequence[ImageRun], template: Template) -> int:
        """Positions of an exchange, or a few more."""
        question = self._count(f"{template.between_turns}{exchange.question.text}{template.after_question}")
        n_images = sum(image.n_tokens + 2 * _SEAM for image in images)
        return question + n_images + (self._count(exchange.answer) if exchange.answer else 0)

    def _count(self, text: str) -> int:
        """Tokens of a text, or a few more; of one that is far too long, only what it has at least."""
        if len(text) > _READ_AT_ONCE:
            return self._language.count_at_least(text) + _SEAM
        return len(self._language.tokenize(text, add_bos=False)) + _SEAM

    def _spell(self, answer: KnownAnswer) -> str:
        pieces = b"".join(map(self._language.piece, answer.ids))
        return pieces.decode("utf-8", "surrogateescape") + answer.carry

    def _tokenize_answer(self, text: str) -> KnownAnswer:
        """An answer that was not given here, as training would have had it."""
        written = f"{self.template.before_answer}{text}" if text else ""
        return KnownAnswer(tuple(self._language.tokenize_within(written)))

    def _check_length(self, texts: Sequence[str]) -> None:
        """Refuses texts that cannot fit before they are tokenized, which would take minutes for megabytes."""
        if sum(map(len, texts)) > _READ_AT_ONCE:
            n_needed = sum(map(self._language.count_at_least, texts)) + 1
            if n_needed > self._n_ctx:
                raise ContextOverflow(n_needed, self._n_ctx, "or more, of text alone", "Use a shorter prompt.")

    def _check_room(self, runs: Sequence[Run], past: Sequence[PastTurn] = ()) -> None:
        """Refuses a turn that does not fit behind others with one token of its answer."""
        images = [run.n_tokens for run in runs if isinstance(run, ImageRun)]
        n_earlier, n_image = sum(turn.n_tokens for turn in past), sum(images)
        n_text = sum(run.n_tokens for run in runs) - n_image
        n_needed = n_earlier + n_text + n_image + 1
        if n_needed > self._n_ctx:
            detail = f"{n_earlier} earlier, {n_text} text, {n_image} for {len(images)} images, 1 answer"
            larger = f"a larger context (-c {n_needed + 512}), " if n_needed <= self._language.spec.n_ctx_train else ""
            raise ContextOverflow(
                n_needed,
                self._n_ctx,
                detail,
                f"Use {larger}a shorter prompt, fewer images, or begin a new conversation.",
            )
