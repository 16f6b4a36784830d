"""Beside programs that keep the CPUs busy, fewer threads compute, and the answer is the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import llama_cpp
import pytest

import edge_llava
from edge_llava.device.threads import default_threads

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs the system's counters"),
    pytest.mark.skipif(default_threads() < 2, reason="one thread cannot become fewer"),
]


@pytest.fixture
def busy() -> Iterator[None]:
    """Twice as many programs as CPUs."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for program in programs:
        program.kill()
        program.wait()


def ask(model):
    return [
        token.id for token in model.session(edge_llava.SamplingOptions(temperature=0, max_new_tokens=8)).ask("What?")
    ]


def test_fewer_threads_give_the_same_answer(seeded_q4, busy, forget):
    with edge_llava.load(seeded_q4, edge_llava.EngineOptions(edge_llava.DecoderOptions(n_threads=1))) as model:
        expected = ask(model)
    with edge_llava.load(seeded_q4, edge_llava.EngineOptions()) as model:
        context, deadline = model.engine.language.context, time.monotonic() + 60
        while llama_cpp.llama_n_threads(context) == default_threads() and time.monotonic() < deadline:
            assert ask(model) == expected
            forget(model)
        assert llama_cpp.llama_n_threads(context) < default_threads()
        assert ask(model) == expected


@pytest.mark.parametrize("options", [{"n_threads": 2}, {"flash_attention": True}])
def test_a_number_that_was_given_and_flash_attention_keep_theirs(seeded_q4, busy, options):
    decoder = edge_llava.DecoderOptions(**options)
    with edge_llava.load(seeded_q4, edge_llava.EngineOptions(decoder)) as model:
        for _ in range(2):
            ask(model)
            time.sleep(0.25)
        assert llama_cpp.llama_n_threads(model.engine.language.context) == options.get("n_threads", default_threads())
