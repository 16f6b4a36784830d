"""Conversations -> token ids and labels: what the model reads, and which of it it must learn to say.

Each piece of text (what stands before a picture, after it, an answer) is tokenized on its own, as the runtime does and
as LLaVA's tokenizer_image_token did; who owns a token is then known and nothing has to be searched for.

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

IGNORED = -100  # torch's cross entropy leaves these positions out


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text on its own."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that no text has, and the room of a picture.

    Attributes:
        bos, eos, pad: Begin, end, filling.
        image: Stands at every position that a patch takes.
        n_patches: Positions of one picture.
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
        ids: int64 (T,); `image` where a patch stands.
        labels: int64 (T,); the id where the model must learn it, else IGNORED.
        picture: Path relative to the picture folder, or None.
        n_cut: Tokens that did not fit and were left out.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    picture: str | None
    n_cut: int = 0


class SampleBuilder:
    """Builds samples with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens, max_length: int) -> None:
        """
        Args:
            tokenizer: The language model's.
            special: Its special ids.
            max_length: Positions of a sample, patches included; what is longer is cut.
        """
        self._tokenizer, self._special, self._max_length = tokenizer, special, max_length

    def plain(self, conversation: Conversation) -> Sample:
        """Stage 1: the picture, then its caption and a newline, which are learned. The instruction is not used.

        Raises:
            DataError: If there is no picture.
        """
        if conversation.image is None:
            raise DataError(f"conversation {conversation.id} has no picture: alignment needs one in each.")
        pieces = _Pieces(self._special)
        pieces.add([self._special.bos], learned=False)
        pieces.add_picture()
        pieces.add(self._encode(f"{conversation.turns[0].answer}\n"), learned=True)
        return pieces.build(conversation.image, self._max_length)

    def chat(self, conversation: Conversation, template: Template) -> Sample:
        """Stage 2: all turns in a template; every answer and the token that ends it are learned."""
        pieces = _Pieces(self._special)
        pieces.add([self._special.bos], learned=False)
        for index, turn in enumerate(conversation.turns):
            before = template.opening if index == 0 else template.between_turns.removeprefix(template.stop)
            if index == 0 and conversation.image is not None:
                pieces.add(self._encode(before), learned=False)
                pieces.add_picture()
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

    def add_picture(self) -> None:
        self.add([self._special.image] * self._special.n_patches, learned=False)

    def build(self, picture: str | None, max_length: int) -> Sample:
        n_cut = max(0, len(self._ids) - max_length)
        return Sample(torch.tensor(self._ids[:max_length]), torch.tensor(self._labels[:max_length]), picture, n_cut)
