from __future__ import annotations

import pytest

from edge_llava.evaluation.share import Share, add


# from the formula in 40-digit arithmetic; 81 of 263 and 15 of 148 also stand in Newcombe, Statistics in Medicine, 1998
@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"),
    [
        (0, 10, 0.000000000, 0.277532800),
        (10, 10, 0.722467200, 1.000000000),
        (1, 10, 0.017876213, 0.404150027),
        (81, 263, 0.255288520, 0.366209577),
        (15, 148, 0.062386400, 0.160487242),
        (950, 1000, 0.934686180, 0.961869738),
        (1, 1, 0.206549314, 1.000000000),
        (499, 998, 0.469038742, 0.530961258),
    ],
)
def test_wilson_intervals(n_right, n, low, high):
    assert Share(n_right, n).interval == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 123_457])
def test_intervals_never_leave_the_unit_and_hold_the_value(n):
    for n_right in {0, 1, n // 2, n - 1, n}:
        share = Share(n_right, n)
        low, high = share.interval
        assert 0 <= low <= share.value <= high <= 1
    assert Share(0, n).interval[0] == 0
    assert Share(n, n).interval[1] == 1
    assert Share(0, n).interval[1] == pytest.approx(1 - Share(n, n).interval[0])


def test_nothing_tried_says_nothing():
    assert Share(0, 0).value is None
    assert Share(0, 0).interval == (0.0, 1.0)


def test_added_shares_count_trials_not_kinds():
    total = add([Share(1, 2), Share(90, 100), Share(0, 0)])
    assert total == Share(91, 102)
    assert total.value == 91 / 102
    assert add([]) == Share(0, 0)
