from __future__ import annotations

from edge_llava.training.instructions.annotation import AnnotatedPicture
from edge_llava.training.instructions.caption_pairs import pair_captions
from edge_llava.training.instructions.phrasings import BRIEF

PICTURES = [AnnotatedPicture(f"{i}", f"{i}.jpg", (f"A {i}.", f"The {i}.", f"One {i}."), ()) for i in range(300)]


def test_one_caption_of_each_picture_as_an_answer():
    pairs = list(pair_captions(PICTURES, seed=1))
    assert [(pair.id, pair.image, pair.type) for pair in pairs] == [(f"{i}", f"{i}.jpg", "caption") for i in range(300)]
    assert all(pair.turns[0].answer in picture.captions for pair, picture in zip(pairs, PICTURES, strict=True))
    assert {pair.turns[0].answer.split()[0] for pair in pairs} == {"A", "The", "One"}
    assert {pair.turns[0].question for pair in pairs} == set(BRIEF)


def test_the_seed_decides():
    first, again, other = (list(pair_captions(PICTURES, seed)) for seed in (1, 1, 2))
    assert first == again != other
