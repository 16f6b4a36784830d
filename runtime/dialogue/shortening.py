"""Dialogues that are too long: their oldest exchanges go."""

from __future__ import annotations

from dataclasses import replace

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.templates import find_template
from edge_llava.runtime.dialogue.messages import Dialogue, Exchange
from edge_llava.runtime.dialogue.past_turns import room_for_prompt, turns_to_drop
from edge_llava.runtime.dialogue.turn_plan import count_quickly
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.tower import Tower

_SEAM = 4  # tokens that a text may have more in its place, where it is tokenized together with others


class DialogueShortener:
    """Drops what a session with `on_full="drop-oldest"` would drop. Thread-safe."""

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
            tower: Opens and places its images.
            n_ctx: Positions that a conversation may take.
        """
        self._template = find_template(bundle.manifest.language.template)
        self._language, self._tower, self._n_ctx = language, tower, n_ctx

    def shorten(self, dialogue: Dialogue, max_new_tokens: int) -> Dialogue:
        """The dialogue without its oldest exchanges, so that it fits with an answer; see `turns_to_drop`.

        Its images are opened: a file object can be read only once.

        Args:
            dialogue: Of any length.
            max_new_tokens: Of the answer.

        Raises:
            ImageError: If an image cannot be read, or an embedding belongs to another bundle.
        """
        template = self._template.with_system(dialogue.system) if dialogue.system.strip() else self._template
        n_room = room_for_prompt(self._n_ctx, max_new_tokens) - self._count(template.opening)
        n_room -= self._count(dialogue.answer_start)
        exchanges = [self._open_images(exchange) for exchange in dialogue.exchanges]
        sizes = [self._size(exchange) for exchange in exchanges]
        have_images = [bool(exchange.question.images) for exchange in exchanges]
        dropped = turns_to_drop(sizes, have_images, n_room)
        kept = [exchange for index, exchange in enumerate(exchanges) if index not in dropped]
        return replace(dialogue, exchanges=tuple(kept))

    def _open_images(self, exchange: Exchange) -> Exchange:
        images = tuple(
            image if isinstance(image, ImageEmbedding) else self._tower.open(image)
            for image in exchange.question.images
        )
        return replace(exchange, question=replace(exchange.question, images=images))

    def _size(self, exchange: Exchange) -> int:
        """Positions of an exchange, or a few more."""
        question, template = exchange.question, self._template
        n_text = self._count(f"{template.between_turns}{question.text}{template.after_question}")
        images = [self._tower.place(image) for image in question.images]
        n_images = sum(image.n_tokens + 2 * _SEAM for image in images)
        return n_text + n_images + (self._count(exchange.answer) if exchange.answer else 0)

    def _count(self, text: str) -> int:
        return count_quickly(text, self._language) + _SEAM
