"""Stage 1 data: one caption of each image, as the answer to a request for a short description.

Source: LLaVA's CC-595K, whose human turn is also chosen at random from a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from edge_llava.scenes.sentences import pick
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.conversations import Conversation, Turn
from edge_llava.training.instructions.phrasings import BRIEF


def pair_captions(images: Iterable[AnnotatedImage], seed: int) -> Iterator[Conversation]:
    """Yields one conversation of one turn for each image.

    Args:
        images: Images with their captions.
        seed: Decides which caption is used, and how it is asked for.
    """
    random = np.random.default_rng(seed)
    for image in images:
        turn = Turn(pick(random, BRIEF), pick(random, image.captions))
        yield Conversation(image.id, image.path, (turn,), "caption")
