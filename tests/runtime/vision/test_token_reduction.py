"""Fewer rows: which patches are kept, which are merged into which, and where each row stands."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edge_llava.errors import BundleError
from edge_llava.runtime.vision.visual_tokens import RankedPatches, check_visual_tokens, reduce_tokens


def patches(attention, keys, features=None):
    """Patches whose features, unless given, are (1, 0), (2, 0), (4, 0) ...: a sum tells which were added."""
    n = len(attention)
    rows = [[2**i, 0] for i in range(n)] if features is None else features
    return RankedPatches(np.array(rows, np.float32), np.array(attention, np.float32), np.array(keys, np.float32))


def slow_reduction(given, n):
    """The same, as VisionZip's paper says it, with one change a line: patch by patch, in Python's own floats."""
    attention, keys = given.attention.tolist(), given.keys.astype(np.float64).tolist()
    n_dominant = min(n - 1, math.floor(27 / 32 * n + 0.5))
    dominant = sorted(range(len(attention)), key=lambda patch: (-attention[patch], patch))[:n_dominant]
    rest = [patch for patch in range(len(attention)) if patch not in dominant]
    n_contextual = n - n_dominant
    targets = [rest[math.floor(place * len(rest) / n_contextual)] for place in range(n_contextual)]
    groups = {target: [target] for target in targets}

    def cosine(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))

    for patch in rest:
        if patch not in targets:
            groups[max(targets, key=lambda target: cosine(keys[patch], keys[target]))].append(patch)
    rows = {patch: given.features[patch].tolist() for patch in dominant}
    for target, members in groups.items():
        columns = zip(*(given.features[member].astype(np.float64) for member in members), strict=True)
        rows[target] = [sum(column) / len(members) for column in columns]
    return np.array([rows[patch] for patch in sorted(rows)])


def test_by_hand():
    """Of six patches three rows: patches 4 and 1 dominate, 0 is the target, and 2, 3 and 5 can only join it."""
    given = patches([0.1, 0.3, 0.1, 0.05, 0.4, 0.05], [[1, 0]] * 6)
    rows = reduce_tokens(given, 3)
    assert rows.tolist() == [[(1 + 4 + 8 + 32) / 4, 0], [2, 0], [16, 0]]
    assert (rows.dtype, rows.flags.c_contiguous) == (np.float32, True)


def test_groups_by_hand():
    """Of 13 patches ten rows: 0 to 7 dominate; of 8 to 12 every other one is wanted as a target: 8 and 10.

    9 looks the way of 10 though its key is long, 11 the way of 8 though its key is short, and 12 lies between: it joins
    the earlier one.
    """
    keys = [[1, 0]] * 8 + [[1, 0], [0, 100], [0, 1], [0.01, 0], [1, 1]]
    rows = reduce_tokens(patches([1] * 8 + [0] * 5, keys), 10)
    expected = [2**i for i in range(8)] + [(2**8 + 2**11 + 2**12) / 3, (2**10 + 2**9) / 2]
    assert rows[:, 0].tolist() == np.array(expected, np.float32).tolist()


def test_a_group_stands_where_its_target_is():
    """Targets before, between and after the dominant patches."""
    attention = np.ones(13)
    attention[[0, 1, 6, 11, 12]] = 0
    keys = np.ones((13, 2))
    keys[[11, 12, 6]] = -1
    rows = reduce_tokens(patches(attention, keys), 10)
    # of the rest, 0 1 6 11 12, the first and the third are targets
    assert rows[0, 0] == (2**0 + 2**1) / 2
    assert rows[1:5, 0].tolist() == [2**i for i in (2, 3, 4, 5)]
    assert rows[5, 0] == np.float32((2**6 + 2**11 + 2**12) / 3)
    assert rows[6:, 0].tolist() == [2**i for i in (7, 8, 9, 10)]


@pytest.mark.parametrize(("n", "dominant"), [(64, 54), (128, 108), (192, 162), (144, 122), (288, 243), (2, 1), (3, 2)])
def test_how_many_dominate(n, dominant):
    """VisionZip's own numbers, and the smallest. All keys are equal: what is not merged dominates."""
    given = patches(np.arange(576)[::-1], np.ones((576, 4)), np.arange(576)[:, None])
    rows = reduce_tokens(given, n)
    assert rows[:dominant, 0].tolist() == list(range(dominant))
    assert rows.shape == (n, 1)
    assert len(np.unique(rows)) == n
    assert rows[-1, 0] != dominant + (n - dominant - 1)


def test_of_equal_attention_the_earlier_dominates():
    rows = reduce_tokens(patches([0.25] * 4, [[1, 0]] * 4), 3)
    assert rows[:, 0].tolist() == [1, 2, (4 + 8) / 2]


@pytest.mark.parametrize(("n_patches", "width", "seed"), [(16, 4, 0), (64, 8, 1), (25, 3, 2)])
def test_as_a_slow_one_does_it_for_every_number(n_patches, width, seed):
    random = np.random.default_rng(seed)
    given = RankedPatches(
        random.standard_normal((n_patches, 5)).astype(np.float32),
        random.random(n_patches).astype(np.float32),
        random.standard_normal((n_patches, width)).astype(np.float32),
    )
    for n in range(2, n_patches):
        rows = reduce_tokens(given, n)
        assert rows.shape == (n, 5)
        assert np.abs(rows - slow_reduction(given, n)).max() < 1e-6


def test_nothing_is_lost_and_nothing_is_counted_twice():
    """Every patch is in exactly one row."""
    random = np.random.default_rng(3)
    n_patches = 40
    given = patches(random.random(n_patches), random.standard_normal((n_patches, 6)), np.eye(n_patches))
    for n in (2, 7, 20, 39):
        is_member = reduce_tokens(given, n) > 0
        assert is_member.sum(0).tolist() == [1] * n_patches
        firsts = is_member.argmax(1)
        assert np.count_nonzero(is_member.sum(1) > 1) <= max(1, n - n * 27 // 32)
        assert len(set(firsts.tolist())) == n


def test_what_was_given_stays_as_it_was():
    given = patches([0.4, 0.3, 0.2, 0.1], [[1, 0]] * 4)
    before = [values.copy() for values in (given.features, given.attention, given.keys)]
    reduce_tokens(given, 2)
    for values, old in zip((given.features, given.attention, given.keys), before, strict=True):
        assert np.array_equal(values, old)


def test_keys_of_no_direction():
    rows = reduce_tokens(patches([1, 0, 0, 0], [[0, 0]] * 4), 2)
    assert rows[:, 0].tolist() == [1, np.float32((2 + 4 + 8) / 3)]


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
