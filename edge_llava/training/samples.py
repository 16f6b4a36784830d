"""Converts conversations to token ids and labels: what the model reads, and what it must learn to say.

Each piece of text (the part before an image, the part after it, an answer) is tokenized on its own, as the runtime does
and as LLaVA's tokenizer_image_token did; it is then known which piece each token belongs to.

Source: LLaVA's train.py (preprocess_v1, preprocess_plain), LLAVA-1.5's templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from edge_llava.bundle.templates import Template
from edge_llava.errors import DataError
from edge_llava.training.instructions.conversations import Conversation

IGNORED = -100  # torch's cross entropy ignores these positions


class Tokenizer(Protocol):
    """The part of a tokenizer that is used here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenizes a text on its own."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that do not come from text, and the length of an image.

    Attributes:
        bos, eos, pad: Begin, end, padding.
        image: Id at every position of a patch.
        n_patches: Positions of one image.
    """

    bos: int
    eos: int
    pad: int
    image: int
    n_patches: int


@dataclass(frozen=True)
class Sample:
    """One sequence.

    Attributes:
        ids: int64 (T,); `SpecialTokens.image` at the position of each patch.
        labels: int64 (T,); the id if the model must learn it, else IGNORED.
        image: Path relative to the image folder, or None.
        n_cut: Tokens that did not fit and were left out.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    image: str | None
    n_cut: int = 0


class SampleBuilder:
    """Builds samples with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens, max_length: int) -> None:
        """
        Args:
            tokenizer: The language model's.
            special: Its special ids.
            max_length: Positions of a sample, including patches; longer samples are cut.
        """
        self._tokenizer, self._special, self._max_length = tokenizer, special, max_length

    def plain(self, conversation: Conversation) -> Sample:
        """Builds a sample for stage 1: the image, then its caption and a newline, which are learned; no instruction.

        Raises:
            DataError: If there is no image.
        """
        if conversation.image is None:
            raise DataError(f"conversation {conversation.id} has no image; alignment needs one in each.")
        pieces = _Pieces(self._special)
        pieces.add([self._special.bos], learned=False)
        pieces.add_image()
        pieces.add(self._encode(f"{conversation.turns[0].answer}\n"), learned=True)
        return pieces.build(conversation.image, self._max_length)

    def chat(self, conversation: Conversation, template: Template) -> Sample:
        """Builds a sample for stage 2: all turns in a template; every answer and its end token are learned."""
        pieces = _Pieces(self._special)
        pieces.add([self._special.bos], learned=False)
        for index, turn in enumerate(conversation.turns):
            before = template.opening if index == 0 else template.between_turns.removeprefix(template.stop)
            if index == 0 and conversation.image is not None:
                pieces.add(self._encode(before), learned=False)
                pieces.add_image()
                before = "\n"
            pieces.add(self._encode(f"{before}{turn.question}{template.after_question}"), learned=False)
            pieces.add([*self._encode(turn.answer), self._special.eos], learned=True)
        return pieces.build(conversation.image, self._max_length)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


class _Pieces:
    def __init__(self, special: SpecialTokens) -> None:
        self._special = special
        self._ids: list[int] = []
        self._labels: list[int] = []

    def add(self, ids: Sequence[int], *, learned: bool) -> None:
        self._ids += ids
        self._labels += ids if learned else [IGNORED] * len(ids)

    def add_image(self) -> None:
        self.add([self._special.image] * self._special.n_patches, learned=False)

    def build(self, image: str | None, max_length: int) -> Sample:
        n_cut = max(0, len(self._ids) - max_length)
        return Sample(torch.tensor(self._ids[:max_length]), torch.tensor(self._labels[:max_length]), image, n_cut)
