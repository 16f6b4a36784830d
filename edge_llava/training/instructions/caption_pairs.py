"""Stage 1 data: one caption of each picture, as the answer to a wish for a short description.

Source: LLaVA's CC-595K, whose human turn is drawn from a list as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from edge_llava.scenes.sentences import pick
from edge_llava.training.instructions.annotation import AnnotatedPicture
from edge_llava.training.instructions.conversations import Conversation, Turn
from edge_llava.training.instructions.phrasings import BRIEF


def pair_captions(pictures: Iterable[AnnotatedPicture], seed: int) -> Iterator[Conversation]:
    """One conversation of one turn for each picture.

    Args:
        pictures: Pictures with their captions.
        seed: Decides which caption, and how it is asked for.
    """
    random = np.random.default_rng(seed)
    for picture in pictures:
        turn = Turn(pick(random, BRIEF), pick(random, picture.captions))
        yield Conversation(picture.id, picture.image, (turn,), "caption")
