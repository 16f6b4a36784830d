"""The next question of a conversation as runs, after the turns that fit before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.templates import Template, find_template
from edge_llava.runtime.dialogue.past_turns import OnFull, PastTurn, room_for_prompt, turns_to_drop
from edge_llava.runtime.dialogue.prompt import build_turn
from edge_llava.runtime.dialogue.turn_plan import check_length, check_room, check_text, plan_turn
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.runs import ImageRun, Run
from edge_llava.runtime.vision.tower import Tower


class TurnPlanner:
    """Plans turns for a bundle. Thread-safe.

    Attributes:
        template: The bundle's conversation template.
        spec: What the manifest says about the language model.
        language: Its tokenizer.
        tower: Opens and places images.
        n_ctx: Positions that a conversation may take.
    """

    def __init__(self, bundle: Bundle, language: LanguageModel, tower: Tower, n_ctx: int) -> None:
        self.spec = bundle.manifest.language
        self.template = find_template(self.spec.template)
        self.language, self.tower, self.n_ctx = language, tower, n_ctx

    def plan(
        self,
        past: Sequence[PastTurn],
        question: str,
        images: Sequence[ImageRun],
        on_full: OnFull,
        max_new_tokens: int,
    ) -> tuple[list[PastTurn], list[Run]]:
        """The turns that stay, and the runs of a question after them.

        Args:
            past: The conversation so far.
            question: The user's text.
            images: Those of the question.
            on_full: Whether turns may be dropped so that it fits.
            max_new_tokens: Of the answer.

        Raises:
            ContextOverflow: If it does not fit.
            ValueError: If the question is not valid Unicode.
        """
        check_text(question, "the question")
        check_length([question], self.language, self.n_ctx)
        kept = list(past)
        runs = self._next(kept, question, images)
        if on_full == "drop-oldest":
            n_room = room_for_prompt(self.n_ctx, max_new_tokens)
            while dropped := _which_to_drop(kept, runs, n_room):
                kept = self._plan_again([turn for index, turn in enumerate(kept) if index not in dropped])
                runs = self._next(kept, question, images)
        check_room(runs, sum(turn.n_tokens for turn in kept), self.n_ctx, self.spec)
        return kept, runs

    def turn(
        self,
        template: Template,
        question: str,
        images: Sequence[ImageRun],
        *,
        is_first: bool,
        carry: str = "",
        places: Sequence[int] = (),
    ) -> list[Run]:
        """The runs of one question; arguments as `build_turn` and `plan_turn` take them."""
        segments = build_turn(
            template, question, len(images), is_first=is_first, image_marks=self.spec.image_marks, places=places
        )
        return plan_turn(self.language, template, segments, images, is_first=is_first, carry=carry)

    def _next(self, past: Sequence[PastTurn], question: str, images: Sequence[ImageRun]) -> list[Run]:
        return self.turn(self.template, question, images, is_first=not past, carry=past[-1].carry if past else "")

    def _plan_again(self, turns: Sequence[PastTurn]) -> list[PastTurn]:
        """The same turns in a conversation of their own: each continues the one before it."""
        past: list[PastTurn] = []
        for turn in turns:
            past.append(replace(turn, runs=tuple(self._next(past, turn.question, turn.images))))
        return past


def _which_to_drop(past: Sequence[PastTurn], runs: Sequence[Run], n_room: int) -> list[int]:
    sizes = [*(turn.n_tokens for turn in past), sum(run.n_tokens for run in runs)]
    have_images = [*(bool(turn.images) for turn in past), any(isinstance(run, ImageRun) for run in runs)]
    return turns_to_drop(sizes, have_images, n_room)
