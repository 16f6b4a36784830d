from __future__ import annotations

from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.caption_pairs import pair_captions
from edge_llava.training.instructions.phrasings import BRIEF

IMAGES = [AnnotatedImage(f"{i}", f"{i}.jpg", (f"A {i}.", f"The {i}.", f"One {i}."), ()) for i in range(300)]


def test_one_caption_of_each_image_as_an_answer():
    pairs = list(pair_captions(IMAGES, seed=1))
    assert [(pair.id, pair.image, pair.type) for pair in pairs] == [(f"{i}", f"{i}.jpg", "caption") for i in range(300)]
    assert all(pair.turns[0].answer in image.captions for pair, image in zip(pairs, IMAGES, strict=True))
    assert {pair.turns[0].answer.split()[0] for pair in pairs} == {"A", "The", "One"}
    assert {pair.turns[0].question for pair in pairs} == set(BRIEF)


def test_the_seed_decides():
    first, again, other = (list(pair_captions(IMAGES, seed)) for seed in (1, 1, 2))
    assert first == again != other
