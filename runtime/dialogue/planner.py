"""A whole dialogue as a request, with the same runs that a session would have made of it turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_llava.bundle.templates import Template
from edge_llava.runtime.dialogue.answer_history import AnswerHistory, KnownAnswer
from edge_llava.runtime.dialogue.answer_start import NO_START, AnswerStart
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.dialogue.messages import Dialogue, Exchange, Prompt, RawPrompt, read_messages
from edge_llava.runtime.dialogue.past_turns import OnFull, room_for_prompt, turns_to_drop
from edge_llava.runtime.dialogue.turn_plan import check_length, check_room, check_text, count_quickly
from edge_llava.runtime.dialogue.turn_planner import TurnPlanner
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.request import Request
from edge_llava.runtime.runs import Run, TokenRun, up_to_last_image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

_SEAM = 4  # tokens that a text may have more in its place, where it is tokenized together with others


class DialoguePlanner:
    """Plans dialogues for a bundle. Thread-safe.

    Attributes:
        history: What was answered before: an answer that is among it is read as the tokens it was, so that what was
            computed of the conversation can be used again.
    """

    def __init__(self, turns: TurnPlanner) -> None:
        """
        Args:
            turns: Plans each turn.
        """
        self.history = AnswerHistory()
        self._turns, self._template, self._spec = turns, turns.template, turns.spec
        self._language, self._tower, self._n_ctx = turns.language, turns.tower, turns.n_ctx

    def request(self, prompt: Prompt, options: SamplingOptions, on_full: OnFull = "error", salt: str = "") -> Request:
        """What to ask the engine for.

        Args:
            prompt: Messages to answer, or a text to continue.
            options: How the answer is sampled.
            on_full: What happens to messages that do not fit; see `Session.on_full`.
            salt: Answers and images of other salts are not known to it.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
            ContextOverflow: If it does not fit.
            ValueError: If the messages are not a conversation.
        """
        if isinstance(prompt, RawPrompt):
            start = AnswerStart(keeps_space=True)
            return Request(self.plan_text(prompt.text), options, options.stop, start, salt)
        dialogue = read_messages(prompt)
        n_exchanges = len(dialogue.exchanges)
        if on_full == "drop-oldest":
            dialogue = self.shorten(dialogue, options.max_new_tokens)
        turns = self._plan_turns(dialogue, salt)
        runs = [run for turn in turns for run in turn]
        start = self.plan_start(dialogue.answer_start, runs, salt)
        return Request(
            runs,
            options,
            (self._template.stop, *options.stop),
            start,
            salt,
            to_disk=up_to_last_image(turns[0]),
            n_dropped=n_exchanges - len(dialogue.exchanges),
            on_end=lambda tokens: self._remember(runs, start, tokens, salt),
        )

    def plan(self, dialogue: Dialogue, salt: str = "") -> list[Run]:
        """The runs of a dialogue, up to where the answer begins.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
            ContextOverflow: If it does not fit.
        """
        return [run for turn in self._plan_turns(dialogue, salt) for run in turn]

    def _plan_turns(self, dialogue: Dialogue, salt: str) -> list[list[Run]]:
        """The runs of each question, with its answer where it has one."""
        template = self._template_of(dialogue)
        check_length(_texts(dialogue), self._language, self._n_ctx)
        turns: list[list[Run]] = []
        runs: list[Run] = []
        carry = ""
        for exchange in dialogue.exchanges:
            question, is_first = exchange.question, not turns
            images = [self._tower.place(image, salt=salt) for image in question.images]
            turn = self._turns.turn(
                template, question.text, images, is_first=is_first, carry=carry, places=question.places
            )
            check_room(turn, sum(run.n_tokens for run in runs), self._n_ctx, self._spec)
            runs += turn
            if exchange.answer is not None:
                answer = self.history.find(runs, exchange.answer, salt) or self._tokenize_answer(exchange.answer)
                turn.append(TokenRun(answer.ids))
                runs.append(turn[-1])
                carry = answer.carry
            turns.append(turn)
        return turns

    def plan_start(self, text: str, runs: Sequence[Run], salt: str = "") -> AnswerStart:
        """What the answer begins with.

        Args:
            text: As the client gave it; if it is only white space, the answer begins from nothing.
            runs: What `plan` returned.
            salt: As in `request`.

        Raises:
            ContextOverflow: If it does not fit behind them.
        """
        if not text.strip():
            return NO_START
        known = self.history.find(runs, text, salt)
        if known is not None and self._spell(known).lstrip() == text.lstrip():
            # continued exactly as it was sampled, which may be in other tokens than the text alone would have
            ids = (*known.ids, *self._language.tokenize_within(known.carry)) if known.carry else known.ids
            start = AnswerStart(text, ids, keeps_space=True)
        else:
            start = AnswerStart(text, self._tokenize_answer(text.rstrip(" ")).ids, keeps_space=text[-1] != " ")
        n_earlier = sum(run.n_tokens for run in runs)
        check_room([TokenRun(start.ids)], n_earlier, self._n_ctx, self._spec)
        return start

    def plan_text(self, text: str) -> list[Run]:
        """The run of a text that is continued without a template.

        Raises:
            ValueError: If it is not valid Unicode.
            ContextOverflow: If it does not fit.
        """
        check_text(text, "the prompt")
        check_length([text], self._language, self._n_ctx)
        runs: list[Run] = [TokenRun(tuple(self._language.tokenize(text, add_bos=True)))]
        check_room(runs, 0, self._n_ctx, self._spec)
        return runs

    def shorten(self, dialogue: Dialogue, max_new_tokens: int) -> Dialogue:
        """The dialogue without its oldest exchanges, so that it fits with an answer; see `turns_to_drop`.

        Its images are opened: a file object can be read only once.

        Args:
            dialogue: Of any length.
            max_new_tokens: Of the answer.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
        """
        template = self._template_of(dialogue)
        n_room = room_for_prompt(self._n_ctx, max_new_tokens) - self._count(template.opening)
        n_room -= self._count(dialogue.answer_start)
        exchanges = [self._open_images(exchange) for exchange in dialogue.exchanges]
        sizes = [self._size(exchange, template) for exchange in exchanges]
        have_images = [bool(exchange.question.images) for exchange in exchanges]
        dropped = turns_to_drop(sizes, have_images, n_room)
        kept = [exchange for index, exchange in enumerate(exchanges) if index not in dropped]
        return replace(dialogue, exchanges=tuple(kept))

    def _remember(self, runs: Sequence[Run], start: AnswerStart, tokens: AnswerTokens, salt: str) -> None:
        if tokens.ids:
            answer = KnownAnswer((*start.ids, *tokens.whole_ids()), tokens.remainder())
            self.history.remember(runs, start.text + tokens.text, answer, salt)

    def _template_of(self, dialogue: Dialogue) -> Template:
        return self._template.with_system(dialogue.system) if dialogue.system.strip() else self._template

    def _spell(self, answer: KnownAnswer) -> str:
        pieces = b"".join(map(self._language.piece, answer.ids))
        return pieces.decode("utf-8", "surrogateescape") + answer.carry

    def _tokenize_answer(self, text: str) -> KnownAnswer:
        """An answer that was not given here, as training would have had it."""
        written = f"{self._template.before_answer}{text}" if text else ""
        return KnownAnswer(tuple(self._language.tokenize_within(written)), "")

    def _open_images(self, exchange: Exchange) -> Exchange:
        images = tuple(
            image if isinstance(image, ImageEmbedding) else self._tower.open(image)
            for image in exchange.question.images
        )
        return replace(exchange, question=replace(exchange.question, images=images))

    def _size(self, exchange: Exchange, template: Template) -> int:
        """Positions of an exchange, or a few more."""
        question = exchange.question
        n_text = self._count(f"{template.between_turns}{question.text}{template.after_question}")
        images = [self._tower.place(image) for image in question.images]
        n_images = sum(image.n_tokens + 2 * _SEAM for image in images)
        return n_text + n_images + (self._count(exchange.answer) if exchange.answer else 0)

    def _count(self, text: str) -> int:
        return count_quickly(text, self._language) + _SEAM


def _texts(dialogue: Dialogue) -> list[str]:
    said = [text for exchange in dialogue.exchanges for text in (exchange.question.text, exchange.answer or "")]
    return [dialogue.system, *said, dialogue.answer_start]
