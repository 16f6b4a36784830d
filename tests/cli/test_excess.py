"""Options that ask for more than there is are told."""

from __future__ import annotations

import json

import pytest

from edge_llava.cli.excess import describe_excess
from edge_llava.device.facts import count_cpus

pytestmark = pytest.mark.convert


def test_more_threads_and_positions_than_there_are(run, seeded_q4, photo):
    n_cpus = count_cpus()
    options = ("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 1, "--json")
    told = run(*options, "-t", n_cpus + 1, "-c", 1025)
    assert json.loads(told.out)["finish_reason"] == "length"
    lines = told.err.splitlines()
    assert sum(line.startswith(f"edge-llava: -t {n_cpus + 1}: ") for line in lines) == 1
    assert sum("-c 1025: the model was trained with 1,024 positions." in line for line in lines) == 1


def test_what_there_is_needs_no_word():
    assert list(describe_excess(count_cpus(), 1024, 1024)) == []
    assert list(describe_excess(None, None, 1024)) == []
