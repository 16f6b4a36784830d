"""Conversations as runs of tokens and image rows: question by question for a session, all at once for messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edge_llava.bundle.template_spec import Piece, TemplateSpec
from edge_llava.errors import ContextOverflow
from edge_llava.runtime.dialogue.answer_history import AnswerHistory, KnownAnswer
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.dialogue.messages import Dialogue, Message, Prompt, RawPrompt, check_text, read_messages
from edge_llava.runtime.dialogue.past_turns import OnFull, PastTurn, list_runs, room_for_prompt, turns_to_drop
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.request import AnswerStart, Request
from edge_llava.runtime.runs import ImageRun, Run, TokenRun, up_to_last_image
from edge_llava.runtime.vision.anyres import find_limit
from edge_llava.runtime.vision.tower import Tower

_READ_AT_ONCE = 100_000  # characters; half a second at the worst, and the number of positions is exact
_WORDS = 8  # positions behind an image, in which many questions are alike
_SEAM = 4  # tokens that a text may have more in its place, where it is tokenized together with others


class Planner:
    """Plans conversations for a bundle. Thread-safe.

    Raises ImageError for an image that cannot be read or an embedding of another bundle, ContextOverflow where a
    conversation does not fit, and ValueError for messages that are none and for text that is not valid Unicode.

    Attributes:
        template: The bundle's conversation template.
        history: What was answered to messages: an answer that is among it is read as the tokens it was, so that what
            was computed of the conversation can be used again.
    """

    def __init__(self, language: LanguageModel, tower: Tower, n_ctx: int, n_parallel: int = 1) -> None:
        """A conversation may take `n_ctx` positions; `n_parallel` are answered at a time."""
        self.template, self.history = language.spec.template, AnswerHistory()
        self._language, self._tower, self._n_ctx = language, tower, n_ctx
        self._n_words = 0 if n_parallel == 1 else _WORDS

    def resume(self, messages: Sequence[Message], on_full: OnFull, max_new_tokens: int) -> tuple[str, list[PastTurn]]:
        """The system text and the turns of a conversation in which every question is answered."""
        if all(message.role == "system" for message in messages[:1]) and len(messages) < 2:
            system = "".join(message.text for message in messages)
            check_text(system, "the system text")
            return system, []
        dialogue = read_messages([*messages, Message("user", "")])
        n_room = room_for_prompt(self._n_ctx, max_new_tokens) if on_full == "drop-oldest" else None
        answered = replace(dialogue, exchanges=dialogue.exchanges[:-1])
        return dialogue.system, self.plan(answered, n_room=n_room, may_change=True)

    def continue_with(
        self, past: Sequence[PastTurn], question: Message, on_full: OnFull, max_new_tokens: int, system: str = ""
    ) -> list[PastTurn]:
        """The turns of a session that stay, and the question after them; `system` is the session's system text."""
        placed = [turn.images for turn in past]
        n_images = sum(map(len, placed)) + len(question.images)
        images = [self._tower.place(image, n_images=n_images, may_change=True) for image in question.images]
        check_text(question.text, "the question")
        self._check_length([question.text])
        if images and n_images > 1:  # an image that was alone so far is shown in another form by some
            placed = [[self._tower.place_among_several(run) for run in runs] for runs in placed]
        has_changed = placed != [turn.images for turn in past]
        template = self._template_with(system)
        if has_changed or template.after_past_question != template.after_question:
            past = self._plan_again(past, template, placed)
        turns = [*past, PastTurn(question.text, self._next(past, question.text, images, template))]
        if on_full == "drop-oldest":
            n_room = room_for_prompt(self._n_ctx, max_new_tokens)
            while dropped := turns_to_drop(
                [turn.n_tokens for turn in turns], [bool(turn.images) for turn in turns], n_room
            ):
                turns = self._plan_again([turn for index, turn in enumerate(turns) if index not in dropped], template)
        self._check_room(turns[-1].runs, list_runs(turns[:-1]))
        return turns

    def request(
        self,
        prompt: Prompt,
        options: SamplingOptions,
        on_full: OnFull = "error",
        salt: str = "",
        *,
        alone: bool = False,
    ) -> Request:
        """What to ask the engine for, of messages to answer or a text to continue.

        Answers and images of another salt are not known to it; `alone` is as of `LlavaModel.submit`.
        """
        if isinstance(prompt, RawPrompt):
            check_text(prompt.text, "the prompt")
            self._check_length([prompt.text])
            run = TokenRun(tuple(self._language.tokenize(prompt.text, add_bos=True)))
            self._check_room([run])
            n_shareable = self._n_words if alone else None
            return Request([run], options, options.stop, AnswerStart(keeps_space=True), salt, n_shareable)
        dialogue = read_messages(prompt)
        n_room = room_for_prompt(self._n_ctx, options.max_new_tokens) if on_full == "drop-oldest" else None
        turns = self.plan(dialogue, salt, n_room)
        runs = list_runs(turns)
        begun = dialogue.answer_start
        start = self._plan_start(begun, runs, salt)

        def remember(tokens: AnswerTokens) -> None:  # and not the dialogue, which holds the images as they were given
            if tokens.ids:
                self.history.remember(runs, begun + tokens.text, tokens.known(start.ids), salt)

        return Request(
            runs,
            options,
            (*self.template.stops, *options.stop),
            start,
            salt,
            sum(run.n_tokens for run in up_to_last_image(runs)) + self._n_words if alone else None,
            to_disk=up_to_last_image(turns[0].runs),
            n_dropped=len(dialogue.exchanges) - len(turns),
            on_end=remember,
        )

    def preparation(self, prompt: Sequence[Message], on_full: OnFull = "error", salt: str = "") -> Request | None:
        """What to ask the engine for, of messages whose last question is still to come; None: nothing is before it."""
        dialogue = read_messages(prompt)
        options = SamplingOptions()
        n_room = room_for_prompt(self._n_ctx, options.max_new_tokens) if on_full == "drop-oldest" else None
        runs = up_to_last_image(list_runs(self.plan(dialogue, salt, n_room)))
        return Request(runs, options, (), salt=salt, is_preparation=True) if runs else None

    def plan(
        self, dialogue: Dialogue, salt: str = "", n_room: int | None = None, *, may_change: bool = False
    ) -> list[PastTurn]:
        """The turns that a session would have had; without the oldest, where they may take only `n_room` positions.

        `may_change` is as of `Tower.place`.
        """
        template = self._template_with(dialogue.system)
        n_images = sum(len(exchange.question.images) for exchange in dialogue.exchanges)
        # opened once, since a file can be read only once, and not where an earlier turn does not fit already
        images: Iterable[list[ImageRun]] = (
            [
                self._tower.place(image, salt=salt, n_images=n_images, may_change=may_change)
                for image in exchange.question.images
            ]
            for exchange in dialogue.exchanges
        )
        if n_room is not None:
            dialogue, images = self._shorten(dialogue, list(images), template, n_room)
        said = [text for exchange in dialogue.exchanges for text in (exchange.question.text, exchange.answer or "")]
        self._check_length([dialogue.system, *said, dialogue.answer_start])
        turns: list[PastTurn] = []
        runs: list[Run] = []
        for exchange, placed in zip(dialogue.exchanges, images, strict=True):
            question, text, answer = exchange.question, exchange.answer, None
            asked = self._next(turns, question.text, placed, template, question.places)
            self._check_room(asked, runs)
            if text is not None:
                answer = self.history.find([*runs, *asked], text, salt) or self._tokenize_answer(text)
                if template.after_past_question != template.after_question:
                    asked = self._next(turns, question.text, placed, template, question.places, is_past=True)
                runs += [*asked, TokenRun(answer.ids)]
            turns.append(PastTurn(question.text, asked, answer))
        return turns

    def _next(
        self,
        past: Sequence[PastTurn],
        question: str,
        images: Sequence[ImageRun],
        template: TemplateSpec,
        places: Sequence[int] = (),
        *,
        is_past: bool = False,
    ) -> list[Run]:
        """The runs of a question after others, of which `is_past` are followed by more."""
        language = self._language
        pieces = build_turn(template, question, images, places, is_first=not past, is_past=is_past)
        carry = past[-1].answer.carry if past and past[-1].answer is not None else ""
        joins = bool(carry) or (template.joins_text and bool(past))
        tokenizer, runs = language.spec.tokenizer, list[Run]()
        ids = [language.spec.bos] if tokenizer.adds_bos and not past else list[int]()
        for piece in merge_texts([carry, *pieces] if carry else pieces):
            if isinstance(piece, ImageRun):
                runs += [TokenRun(tuple(ids)), piece] if ids else [piece]
                ids = []
            elif isinstance(piece, int):
                ids.append(piece)
            else:
                text = piece.lstrip() if ids and ids[-1] in tokenizer.strips_after else piece
                is_inside = joins and not ids and not runs
                ids += language.tokenize_within(text) if is_inside else language.tokenize(text, add_bos=False)
        return [*runs, TokenRun(tuple(ids))] if ids else runs

    def _template_with(self, system: str) -> TemplateSpec:
        return replace(self.template, opening=self.template.open_with(system if system.strip() else ""))

    def _plan_again(
        self,
        turns: Sequence[PastTurn],
        template: TemplateSpec,
        placed: Sequence[Sequence[ImageRun]] | None = None,
    ) -> list[PastTurn]:
        """The same turns in a conversation of their own, each continues the one before; their images as placed now."""
        again: list[PastTurn] = []
        for turn, images in zip(turns, placed or [turn.images for turn in turns], strict=True):
            is_past = turn.answer is not None
            again.append(replace(turn, runs=self._next(again, turn.question, images, template, is_past=is_past)))
        return again

    def _plan_start(self, text: str, runs: Sequence[Run], salt: str) -> AnswerStart:
        """What an answer begins with that was given as text; if it is only white space, it begins from nothing."""
        if not text.strip():
            return AnswerStart()
        known = self.history.find(runs, text, salt)
        if known is not None and self._spell(known).lstrip() == text.lstrip():
            # continued exactly as it was sampled, which may be in other tokens than the text alone would have
            start = AnswerStart((*known.ids, *self._language.tokenize_within(known.carry)), keeps_space=True)
        else:
            start = AnswerStart(self._tokenize_answer(text.rstrip(" ")).ids, keeps_space=text[-1] != " ")
        self._check_room([TokenRun(start.ids)], runs)
        return start

    def _shorten(
        self, dialogue: Dialogue, images: Sequence[list[ImageRun]], template: TemplateSpec, n_room: int
    ) -> tuple[Dialogue, list[list[ImageRun]]]:
        """The exchanges that stay, and their images."""
        sizes = []
        for exchange, placed in zip(dialogue.exchanges, images, strict=True):
            pieces = (*template.between_turns, *template.before_question, *template.after_past_question)
            n_text = sum(map(self._count, (*pieces, exchange.question.text, exchange.answer or "")))
            sizes.append(n_text + sum(image.n_tokens + 2 * _SEAM for image in placed))
        n_room -= sum(map(self._count, (*template.opening, dialogue.answer_start)))
        dropped = turns_to_drop(sizes, [bool(placed) for placed in images], n_room)
        kept = [index for index in range(len(sizes)) if index not in dropped]
        exchanges = tuple(dialogue.exchanges[index] for index in kept)
        return replace(dialogue, exchanges=exchanges), [images[index] for index in kept]

    def _count(self, text: Piece) -> int:
        """Tokens of a text, or a few more; of one that is far too long, only what it has at least."""
        if isinstance(text, int):
            return 1
        if len(text) > _READ_AT_ONCE:
            return self._language.count_at_least(text) + _SEAM
        return len(self._language.tokenize(text, add_bos=False)) + _SEAM

    def _spell(self, answer: KnownAnswer) -> str:
        pieces = b"".join(map(self._language.piece, answer.ids))
        return pieces.decode("utf-8", "surrogateescape") + answer.carry

    def _tokenize_answer(self, text: str) -> KnownAnswer:
        """An answer that was not given here, as training would have had it."""
        if not text:
            return KnownAnswer(())
        language = self._language
        *lead, last = merge_texts([*self.template.before_answer, text])
        around: tuple[object, ...] = ("", "", *self.template.after_question, *lead)
        special, before = around[-2:]
        # Phi-3's special tokens swallow the line break that follows them, and a text begins behind it
        is_swallowed = special in language.spec.tokenizer.strips_after and not str(before).strip()
        if is_swallowed or isinstance(before, int):
            answer = language.tokenize(str(last).lstrip() if is_swallowed else str(last), add_bos=False)
        else:
            answer = language.tokenize_within(str(last))
        return KnownAnswer((*(piece for piece in lead if isinstance(piece, int)), *answer))

    def _check_length(self, texts: Sequence[str]) -> None:
        """Refuses texts that cannot fit before they are tokenized, which would take minutes for megabytes."""
        if sum(map(len, texts)) > _READ_AT_ONCE:
            n_needed = sum(map(self._language.count_at_least, texts)) + 1
            if n_needed > self._n_ctx:
                raise ContextOverflow(n_needed, self._n_ctx, "or more, of text alone", "Use a shorter prompt.")

    def _check_room(self, runs: Sequence[Run], earlier: Sequence[Run] = ()) -> None:
        """Refuses a turn that does not fit behind the runs of others with one token of its answer."""
        images = [run.n_tokens for run in runs if isinstance(run, ImageRun)]
        n_earlier, n_image = sum(run.n_tokens for run in earlier), sum(images)
        n_text = sum(run.n_tokens for run in runs) - n_image
        n_needed = n_earlier + n_text + n_image + 1
        if n_needed > self._n_ctx:
            detail = f"{n_earlier} earlier, {n_text} text, {n_image} for {len(images)} images, 1 answer"
            larger = f"a larger context (-c {n_needed + 512}), " if n_needed <= self._language.spec.n_ctx_train else ""
            tiled = [run for run in (*earlier, *runs) if isinstance(run, ImageRun) and run.form.aspect == "anyres"]
            n_room = self._n_ctx - n_needed + sum(run.n_tokens for run in tiled)
            limit = find_limit([run.size for run in tiled], tiled[0].form, n_room) if tiled else None
            fewer = f"fewer tiles (--max-tiles {limit}), " if limit is not None else ""
            advice = f"Use {larger}{fewer}a shorter prompt, fewer images, or begin a new conversation."
            raise ContextOverflow(n_needed, self._n_ctx, detail, advice)


def build_turn(
    template: TemplateSpec,
    question: str,
    images: Sequence[ImageRun],
    places: Sequence[int] = (),
    *,
    is_first: bool,
    is_past: bool = False,
) -> list[Piece | ImageRun]:
    """What one turn is made of; `places` is as `Message.places`."""
    pieces: list[Piece | ImageRun] = [*(template.opening if is_first else template.between_turns)]
    n_before = 0
    if not any(places):
        for image in images:
            pieces += [*template.image_before, image, *template.image_after]
        pieces += template.before_question
    else:
        pieces += template.before_question
        for image, place in zip(images, places, strict=True):
            pieces += [question[n_before:place], *template.image_before, image, *template.image_after]
            n_before = place
    return [*pieces, question[n_before:], *(template.after_past_question if is_past else template.after_question)]


def merge_texts(pieces: Sequence[Piece | ImageRun]) -> list[Piece | ImageRun]:
    """Texts that follow each other as one, which is tokenized whole; empty ones are left out."""
    merged: list[Piece | ImageRun] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return merged
