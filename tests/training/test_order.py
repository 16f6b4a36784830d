from __future__ import annotations

import numpy as np

from edge_llava.training.order import draw_order

RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(10, 400, 1003).tolist()
IMAGES = (RANDOM.random(1003) < 0.7).tolist()


def test_every_sample_once_an_epoch():
    order = draw_order(LENGTHS, IMAGES, batch=16, n_epochs=3, seed=1)
    assert len(order) == 3 * 1003
    assert np.bincount(order).tolist() == [3] * 1003


def test_full_batches_are_of_one_kind_and_of_like_lengths():
    order = draw_order(LENGTHS, IMAGES, batch=16, n_epochs=2, seed=1)
    n_full = (sum(IMAGES) // 16 + (1003 - sum(IMAGES)) // 16) * 2
    batches = order[: n_full * 16].reshape(n_full, 16)
    assert all(len({IMAGES[index] for index in batch}) == 1 for batch in batches)
    spread = np.mean([np.ptp([LENGTHS[index] for index in batch]) for batch in batches])
    assert spread < 30  # of 390: little padding


def test_the_seed_decides():
    first, again = (draw_order(LENGTHS, IMAGES, 16, 1, seed=1) for _ in range(2))
    assert (first == again).all()
    assert (first != draw_order(LENGTHS, IMAGES, 16, 1, seed=2)).any()


def test_batches_are_not_sorted_by_length():
    order = draw_order(LENGTHS, [True] * 1003, 16, 1, seed=1)
    means = [np.mean([LENGTHS[i] for i in batch]) for batch in order[: 62 * 16].reshape(62, 16)]
    assert abs(np.corrcoef(range(62), means)[0, 1]) < 0.4


def test_fewer_samples_than_a_batch():
    assert sorted(draw_order([5, 6, 7], [True, False, True], 16, 2, seed=0)) == [0, 0, 1, 1, 2, 2]
