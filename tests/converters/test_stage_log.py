"""What each stage of a conversion took."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edge_llava.conversion.stage_log import StageLog
from edge_llava.home.progress import ProgressEvent


def test_time_belongs_to_the_stage_that_is_prepared():
    now, passed = [10.0], []
    log = StageLog(passed.append, lambda: now[0])
    events = [(13, "tower", 0), (14, "tower", 1), (20, "weights", 1), (21, "tower", 2)]
    for time, stage, done in events:
        now[0] = time
        log(ProgressEvent(stage, done, 2))
    assert [(each.stage, each.seconds) for each in log.figures()] == [("tower", 5.0), ("weights", 6.0)]
    assert [(event.stage, event.done) for event in passed] == [(stage, done) for _, stage, done in events]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the high-water mark cannot be reset")
def test_memory_belongs_to_the_stage_that_used_it():
    log = StageLog(lambda event: None)
    log(ProgressEvent("before", 1, 1))
    block = np.ones(300_000_000, np.uint8)
    log(ProgressEvent("large", 1, 1))
    del block
    log(ProgressEvent("between", 1, 1))  # began with it
    log(ProgressEvent("small", 1, 1))
    peaks = {each.stage: each.peak_rss_bytes for each in log.figures()}
    assert peaks["large"] - peaks["small"] > 250e6
    assert peaks["large"] - peaks["before"] > 250e6
