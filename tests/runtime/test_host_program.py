"""A model inside a program that closes, forks, forgets and ends at any moment. Each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.convert
PROLOGUE = """
import asyncio, gc, multiprocessing, os, signal, sys, threading, time
import numpy as np
import edge_llava
from edge_llava.bundle import Bundle
from edge_llava.runtime.batch.engine import BatchEngine
from edge_llava.runtime.batch.messages import Message

bundle = sys.argv[1]
decoder = edge_llava.DecoderOptions(n_threads=1, n_batch=32)
small = edge_llava.EngineOptions(decoder, n_vision_threads=1, cache=True)
image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
LONG = edge_llava.SamplingOptions(temperature=0, max_new_tokens=900)
SHORT = edge_llava.SamplingOptions(temperature=0, max_new_tokens=4)

def load():
    return edge_llava.load(bundle, small)

def open_engine():
    return BatchEngine(Bundle.open(bundle), small, n_parallel=2)

def ask(engine, on_token=lambda token: None, text="What?", options=LONG):
    return engine.submit([Message("user", text, (image,))], options, on_token)

def refused(action):
    try:
        action()
    except edge_llava.EdgeLlavaError as error:
        return str(error)
    return None
"""


@pytest.fixture
def program(seeded_f32):
    """program(text, *python's options) -> what it wrote to stdout; it must end with 0 and write nothing to stderr."""

    def run(text, *options):
        command = [sys.executable, *options, "-c", PROLOGUE + text, str(seeded_f32)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


# closes, as a signal handler would, before the nth line that the given file runs on the main thread
AT_LINE = """
def closing_at_line(n, file, model):
    left = [n]
    def trace(frame, event, argument):
        if not frame.f_code.co_filename.endswith(file):
            return trace if "edge_llava" in frame.f_globals.get("__name__", "") else None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                model.close()
        return trace
    sys.settrace(trace)
    return left
"""


@pytest.mark.parametrize(
    ("file", "step"),
    [("session.py", 9), ("decoder.py", 31), ("gate.py", 41), ("prefix_cache.py", 61), ("turn_lock.py", 7)],
)
def test_closing_in_a_signal_handler_at_many_lines(program, file, step):
    out = program(
        AT_LINE
        + f"""
ends, n = [], 1
while True:
    model = load()
    left = closing_at_line(n, {file!r}, model)
    tokens = []
    try:
        for token in model.session(SHORT).ask("What is this?", image=image):
            tokens.append(token)
        ends.append(tokens[-1].finish_reason)
    except edge_llava.EdgeLlavaError as error:
        assert str(error) == "this model is closed. Load it again.", error
        ends.append("closed")
    finally:
        sys.settrace(None)
    if left[0] > 0:
        break
    assert model.closed and model.gate._is_freed, n
    model.close()
    n += {step}
model.close()
print(len(ends), *sorted(set(ends)))
"""
    )
    n_tried, *ends = out.split()
    assert int(n_tried) > 3
    assert set(ends) <= {"cancelled", "closed", "length"}


@pytest.mark.parametrize("work", ["encode", "prefill", "decode", "paused"])
def test_closing_in_a_signal_handler_by_the_clock(program, work):
    out = program(
        f"""
work, ends = {work!r}, set()
for delay in (0.001, 0.003, 0.01, 0.03, 0.06):
    model = load()
    signal.signal(signal.SIGALRM, lambda number, frame: model.close())
    try:
        if work == "encode":
            signal.setitimer(signal.ITIMER_REAL, delay)
            while True:
                model.embed_image(image)
        answer = model.session(LONG).ask("word " * 150 if work == "prefill" else "What?")
        if work != "prefill":
            next(answer)
        signal.setitimer(signal.ITIMER_REAL, delay)
        if work == "paused":
            time.sleep(delay + 0.05)
            assert model.gate._is_freed
        while not model.closed:
            tokens = list(answer)
        ends.add((tokens if model.closed and work != "paused" else list(answer))[-1].finish_reason)
    except edge_llava.EdgeLlavaError as error:
        ends.add(str(error))
    signal.setitimer(signal.ITIMER_REAL, 0)
    model.close()
    assert model.gate._is_freed
print(ends)
"""
    )
    assert out.strip() in {
        "encode": ["{'this model is closed. Load it again.'}"],
        "paused": ["{'cancelled'}"],
    }.get(work, ["{'cancelled'}"])


def test_closing_an_engine_in_a_signal_handler(program):
    program(
        AT_LINE
        + """
for file, step in (("engine.py", 5), ("job_queue.py", 9), ("answer.py", 7), ("gate.py", 23)):
    n = 1
    while True:
        engine = open_engine()
        left = closing_at_line(n, file, engine)
        try:
            answer = ask(engine, options=SHORT)
            answer.cancel()
            answer.wait(20)
        except edge_llava.EdgeLlavaError as error:
            assert "is closed" in str(error), error
        sys.settrace(None)
        engine.close()
        assert engine._gate._is_freed
        if left[0] > 0:
            break
        n += step
    assert n > step
"""
    )


def test_closing_from_callbacks_other_threads_and_async_answers(program):
    out = program(
        """
engine, ends = open_engine(), []
def close_it(token):
    engine.close()
    ends.append(token.finish_reason)
ask(engine, close_it).wait(20)
engine.close()
print(ends[-1], engine._gate._is_freed)

model = load()
async def close_in_the_loop():
    answer = model.session(LONG).ask_async("What?", image=image)
    await anext(answer)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, model.close)
    os.kill(os.getpid(), signal.SIGUSR1)
    return [token async for token in answer][-1].finish_reason
print(asyncio.run(close_in_the_loop()), model.gate._is_freed)

model = load()
closers = [threading.Thread(target=model.close) for _ in range(3)]
answer = model.session(LONG).ask("What?")
next(answer)
for thread in closers: thread.start()
for thread in closers: thread.join()
print(model.gate._is_freed, [token.finish_reason for token in answer])
model.close()
"""
    )
    assert out.splitlines() == ["cancelled True", "cancelled True", "True ['cancelled']"]
