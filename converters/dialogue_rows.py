"""Conversations as the rows that a language model reads, to measure with: tokens as in training, image rows between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edge_llava.bundle.template_spec import Piece, TemplateSpec
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue import Dialogue
from edge_llava.converters.reference import reference_ids, reference_rows

_EMBEDDING = "language.embed_tokens.weight"


@dataclass(frozen=True, eq=False)
class DialogueRows:
    """One sequence.

    Attributes:
        rows: float32 (T, E), of tokens and of at most one image.
        image: Where the rows of the image are.
    """

    rows: torch.Tensor
    image: slice

    @property
    def n_image(self) -> int:
        """Rows of the image."""
        return int(self.image.stop - self.image.start)


@torch.inference_mode()
def dialogue_rows(
    checkpoint: Checkpoint,
    template: TemplateSpec,
    dialogues: Sequence[Dialogue],
    features: Sequence[NDArray[np.float32]],
    max_rows: int | None = None,
) -> list[DialogueRows]:
    """Makes the rows of each dialogue, from BOS to the token that ends the last answer.

    Args:
        checkpoint: Provides tokenizer, embedding and projector.
        template: What stands around questions and answers.
        dialogues: What is said.
        features: Of each image (S, P, D): of one or more squares, which are read one after another.
        max_rows: A longer dialogue is cut; None: the positions that the language model was trained for.
    """
    most = checkpoint.config.language.n_ctx_train if max_rows is None else max_rows
    table = checkpoint.load(_EMBEDDING)
    sequences = []
    for dialogue in dialogues:
        before, after = (_tokens(checkpoint, pieces) for pieces in _split(template, dialogue))
        opening = [checkpoint.vocabulary.bos] if checkpoint.vocabulary.spec.adds_bos else []
        first = table[[*opening, *before]].float()
        image = first[:0]
        if dialogue.image is not None:
            rows = reference_rows(checkpoint, features[dialogue.image])
            image = torch.from_numpy(rows.reshape(-1, rows.shape[-1]))[: most - len(first)]
        n_so_far = len(first) + len(image)
        last = table[[*after, checkpoint.vocabulary.eos][: max(0, most - n_so_far)]].float()
        sequences.append(DialogueRows(torch.cat([first, image, last]), slice(len(first), n_so_far)))
    return sequences


def _split(template: TemplateSpec, dialogue: Dialogue) -> tuple[list[Piece], list[Piece]]:
    """What stands before the image, and what after it; without an image everything is in the second."""
    has_image = dialogue.image is not None
    before = [*template.opening, *(template.image_before if has_image else ())]
    after = [*(template.image_after if has_image else ()), *template.before_question]
    for question, answer in dialogue.turns[:-1]:
        after += [question, *template.after_past_question, *template.before_answer, answer, *template.between_turns]
        after += template.before_question
    question, answer = dialogue.turns[-1]
    after += [question, *template.after_question, *template.before_answer, answer]
    return (before, after) if has_image else ([], [*before, *after])


def _tokens(checkpoint: Checkpoint, pieces: Sequence[Piece]) -> list[int]:
    """Tokenizes texts that no special token parts as one."""
    joined = list(_join(pieces))
    texts = iter(reference_ids(checkpoint, [piece for piece in joined if isinstance(piece, str)]))
    return [id_ for piece in joined for id_ in ([piece] if isinstance(piece, int) else next(texts))]


def _join(pieces: Sequence[Piece]) -> Iterator[Piece]:
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield text
        text = ""
        yield piece
    if text:
        yield text
