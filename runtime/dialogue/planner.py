"""A whole dialogue as runs, the same that a session would have made of it turn by turn."""

from __future__ import annotations

from collections.abc import Sequence

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.templates import find_template
from edge_llava.runtime.dialogue.answer_history import SaidAnswer, SaidAnswers
from edge_llava.runtime.dialogue.answer_start import NO_START, AnswerStart
from edge_llava.runtime.dialogue.messages import Dialogue
from edge_llava.runtime.dialogue.prompt import build_turn
from edge_llava.runtime.dialogue.turn_plan import check_length, check_room, check_text, plan_turn
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.runs import Run, TokenRun
from edge_llava.runtime.vision.tower import Tower


class DialoguePlanner:
    """Plans dialogues for a bundle. Thread-safe.

    Attributes:
        template: The bundle's conversation template.
        said: What was answered before: an answer that is among them is read as the tokens it was, so that what was
            computed of the conversation can be used again.
    """

    def __init__(
        self,
        bundle: Bundle,
        language: LanguageModel,
        tower: Tower,
        n_ctx: int,
    ) -> None:
        """
        Args:
            bundle: Whose template.
            language: Its tokenizer.
            tower: Places its images.
            n_ctx: Positions that a conversation may take.
        """
        self.template = find_template(bundle.manifest.language.template)
        self.said = SaidAnswers()
        self._bundle, self._language, self._tower, self._n_ctx = bundle, language, tower, n_ctx

    def plan(self, dialogue: Dialogue, salt: str = "") -> list[Run]:
        """The runs of a dialogue, up to where the answer begins.

        Args:
            dialogue: What was said.
            salt: Answers and images of other salts are not known to it.

        Raises:
            ImageError: If a picture cannot be read, or an embedding belongs to another bundle.
            ContextOverflow: If it does not fit.
        """
        template = self.template.with_system(dialogue.system) if dialogue.system.strip() else self.template
        spec = self._bundle.manifest.language
        check_length(_texts(dialogue), self._language, self._n_ctx)
        runs: list[Run] = []
        carry, is_first = "", True
        for exchange in dialogue.exchanges:
            question = exchange.question
            images = [self._tower.place(image, salt=salt) for image in question.images]
            segments = build_turn(
                template,
                question.text,
                len(images),
                is_first=is_first,
                image_marks=spec.image_marks,
                places=question.places,
            )
            turn = plan_turn(self._language, template, segments, images, is_first=is_first, carry=carry)
            check_room(turn, sum(run.n_tokens for run in runs), self._n_ctx, spec)
            runs += turn
            if exchange.answer is not None:
                answer = self.said.find(runs, exchange.answer, salt) or self._tokenize_answer(exchange.answer)
                runs.append(TokenRun(answer.ids))
                carry = answer.carry
            is_first = False
        return runs

    def plan_start(self, text: str, runs: Sequence[Run], salt: str = "") -> AnswerStart:
        """What the answer begins with.

        Args:
            text: As the client gave it; of white space alone, the answer begins anew.
            runs: What `plan` gave.
            salt: As in `plan`.

        Raises:
            ContextOverflow: If it does not fit behind them.
        """
        if not text.strip():
            return NO_START
        said = self.said.find(runs, text, salt)
        if said is not None and self._spell(said).lstrip() == text.lstrip():
            # continued exactly as it was sampled, which may be in other tokens than the text alone would have
            ids = (*said.ids, *self._language.tokenize_within(said.carry)) if said.carry else said.ids
            start = AnswerStart(text, ids, keeps_space=True)
        else:
            start = AnswerStart(text, self._tokenize_answer(text.rstrip(" ")).ids, keeps_space=text[-1] != " ")
        n_earlier = sum(run.n_tokens for run in runs)
        check_room([TokenRun(start.ids)], n_earlier, self._n_ctx, self._bundle.manifest.language)
        return start

    def _spell(self, answer: SaidAnswer) -> str:
        pieces = b"".join(map(self._language.piece, answer.ids))
        return pieces.decode("utf-8", "surrogateescape") + answer.carry

    def plan_text(self, text: str) -> list[Run]:
        """The run of a text that is continued without a template.

        Raises:
            ValueError: If it is not valid Unicode.
            ContextOverflow: If it does not fit.
        """
        check_text(text, "the prompt")
        check_length([text], self._language, self._n_ctx)
        runs: list[Run] = [TokenRun(tuple(self._language.tokenize(text, add_bos=True)))]
        check_room(runs, 0, self._n_ctx, self._bundle.manifest.language)
        return runs

    def _tokenize_answer(self, text: str) -> SaidAnswer:
        """An answer of somebody else, as training would have had it."""
        written = f"{self.template.before_answer}{text}" if text else ""
        return SaidAnswer(tuple(self._language.tokenize_within(written)), "")


def _texts(dialogue: Dialogue) -> list[str]:
    said = [text for exchange in dialogue.exchanges for text in (exchange.question.text, exchange.answer or "")]
    return [dialogue.system, *said, dialogue.answer_start]
