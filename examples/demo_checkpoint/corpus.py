"""Text about scenes, on which the demo's language model is trained before it sees a picture.

Each document is a conversation in which a description takes the place of the picture, so that the model learns what can
be asked about a scene, and what follows from which facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edge_llava.bundle.templates import find_template
from edge_llava.scenes.scene import Scene
from edge_llava.scenes.sentences import captions, describe
from edge_llava.scenes.shorthand import shorthand
from edge_llava.training.instructions.conversations import Turn
from edge_llava.training.instructions.scene_teacher import teach

_TEMPLATES = ("llava_v1", "vicuna_v1")
_TYPES = ("conversation", "conversation", "conversation", "shorthand", "shorthand", "reasoning", "detail")


def documents(scenes: Sequence[Scene], seed: int) -> Iterator[tuple[str, tuple[Turn, ...]]]:
    """Yields, for each scene, the description that replaces the picture, and the turns about it."""
    random = np.random.default_rng(seed)
    for scene in scenes:
        response_type = _TYPES[int(random.integers(len(_TYPES)))]
        # a description states size and place; the third caption does so in another style
        stand_in = describe(scene) if response_type != "detail" and random.random() < 0.5 else captions(scene)[2]
        if response_type == "shorthand":
            yield stand_in, (Turn(*shorthand(scene, random)),)
        else:
            yield stand_in, teach(scene, response_type, random)


def vocabulary_texts(scenes: Sequence[Scene], seed: int) -> Iterator[str]:
    """Yields the lines from which the vocabulary is made: all texts of the training, as the templates frame them."""
    for scene, (_, turns) in zip(scenes, documents(scenes, seed), strict=True):
        yield from captions(scene)
        for name in _TEMPLATES:
            yield find_template(name).opening
        for turn in turns:
            # The first question of a conversation follows the picture and a newline, without a space. A digit stands
            # for the newline, which must stay a byte as in LLaMA's vocabulary: pieces do not cross digits.
            yield f"0{turn.question}"
            yield f"USER: {turn.question} ASSISTANT:"
            yield turn.answer
