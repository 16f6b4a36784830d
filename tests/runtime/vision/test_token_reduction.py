"""Fewer rows: which patches are kept, in which order."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edge_llava.errors import BundleError
from edge_llava.runtime.vision.visual_tokens import RankedPatches, check_visual_tokens, reduce_tokens


def patches(attention, features):
    """Patches of these features; keys play no part."""
    n = len(attention)
    return RankedPatches(np.array(features, np.float32), np.array(attention, np.float32), np.zeros((n, 4), np.float32))


def slow_choice(given, n):
    """The same, as the paper says it: every gain is computed for every choice, in Python's own floats."""
    features, attention = given.features.astype(np.float64).tolist(), given.attention.tolist()

    def cosine(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))

    places = range(len(features))
    similarity = [[max(0.0, cosine(features[i], features[j])) for j in places] for i in places]
    weights = [(value / max(attention)) ** 0.15 for value in attention]
    chosen, seen = [], [0.0] * len(features)
    while len(chosen) < n:
        gains = {i: weights[i] * sum(max(0.0, similarity[i][j] - seen[j]) for j in places) for i in places}
        chosen.append(max((i for i in places if i not in chosen), key=lambda i: (gains[i], -i)))
        seen = [max(old, new) for old, new in zip(seen, similarity[chosen[-1]], strict=True)]
    return sorted(chosen)


def test_by_hand():
    """Three things: two patches of one, three of another, one of a third, which is looked at least."""
    looks = [[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 1, 0], [0, 3, 0], [0, 0, 1]]
    rows = reduce_tokens(patches([0.1, 0.2, 0.1, 0.3, 0.1, 0.05], looks), 3)
    assert rows.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]  # of each the one that is looked at most
    assert (rows.dtype, rows.flags.c_contiguous) == (np.float32, True)


def test_of_equal_ones_the_earlier():
    looks = [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert reduce_tokens(patches([0.25] * 4, looks), 2).tolist() == [[1, 0], [0, 1]]
    same = reduce_tokens(patches([0.25] * 4, [[1, 0], [2, 0], [3, 0], [4, 0]]), 3)  # nothing is gained any more
    assert same.tolist() == [[1, 0], [2, 0], [3, 0]]


@pytest.mark.parametrize(("n_patches", "width", "seed"), [(16, 4, 0), (64, 8, 1), (25, 3, 2)])
def test_as_a_slow_one_does_it_for_every_number(n_patches, width, seed):
    random = np.random.default_rng(seed)
    given = patches(random.random(n_patches) ** 3, random.standard_normal((n_patches, width)))
    for n in range(2, n_patches, 1 if n_patches < 64 else 9):
        assert np.array_equal(reduce_tokens(given, n), given.features[slow_choice(given, n)])


@pytest.mark.parametrize("n", [2, 64, 144, 192, 288, 575])
def test_as_many_as_are_wanted_each_once_and_in_order(n):
    random = np.random.default_rng(3)
    features = np.concatenate([np.arange(576)[:, None], random.standard_normal((576, 8))], axis=1)
    places = reduce_tokens(patches(random.random(576), features), n)[:, 0]
    assert len(places) == n
    assert (np.diff(places) > 0).all()


def test_what_was_given_stays_as_it_was():
    given = patches([0.4, 0.3, 0.2, 0.1], [[1, 0], [1, 1], [0, 1], [-1, 1]])
    before = [values.copy() for values in (given.features, given.attention)]
    reduce_tokens(given, 2)
    for values, old in zip((given.features, given.attention), before, strict=True):
        assert np.array_equal(values, old)


@pytest.mark.parametrize("attention", [[0, 0, 0, 0], [1, 0, 0, 0]])
def test_nothing_to_see_and_nothing_that_looks(attention):
    assert reduce_tokens(patches(attention, [[0, 0], [0, 0], [1, 0], [0, 0]]), 2).shape == (2, 2)


@pytest.fixture
def ranking(clip_spec):
    """The spec of a tower of 576 patches that can rank them."""
    return dataclasses.replace(clip_spec("pad"), ranking="class_attention")


@pytest.mark.parametrize("n", [None, 2, 64, 144, 192, 288, 575])
def test_numbers_that_are_fine(n, ranking):
    check_visual_tokens(n, ranking)


@pytest.mark.parametrize("n", [-1, 0, 1, 576, 577, 10**9])
def test_numbers_that_are_not(n, ranking):
    with pytest.raises(BundleError) as caught:
        check_visual_tokens(n, ranking)
    assert str(caught.value) == (
        f"this bundle gives an image 576 tokens: --visual-tokens takes 2 to 575, not {n}. Leave it out to keep all."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranking": "none"}, "converted before its tower could rank patches. Convert the checkpoint again"),
        ({"n_dropped_rows": 0, "ranking": "none"}, "keeps its class token"),
        ({"has_class_row": False, "ranking": "none"}, "drops a patch"),
        ({"aspect": "anyres", "grid_pinpoints": ((336, 672),)}, "cuts images into tiles (anyres)"),
    ],
)
def test_bundles_that_cannot(changes, message, ranking):
    spec = dataclasses.replace(ranking, **changes)
    check_visual_tokens(None, spec)
    with pytest.raises(BundleError) as caught:
        check_visual_tokens(64, spec)
    assert message in str(caught.value)
    assert "--visual-tokens" in str(caught.value)
