"""A model inside a program that closes, forks, forgets and ends at any moment. Each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.convert
PROLOGUE = """
import asyncio, dataclasses, gc, multiprocessing, os, signal, sys, threading, time
import numpy as np
import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.dialogue.messages import Message

bundle = sys.argv[1]
decoder = edge_llava.DecoderOptions(n_threads=1, n_batch=32)
small = edge_llava.EngineOptions(decoder, n_vision_threads=1, cache=True)
image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
LONG = edge_llava.SamplingOptions(temperature=0, max_new_tokens=900)
SHORT = edge_llava.SamplingOptions(temperature=0, max_new_tokens=4)

def load():
    return edge_llava.load(bundle, small)

def open_engine():
    return LlavaModel(Bundle.open(bundle), dataclasses.replace(small, parallel=2))

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


# does something, as a signal handler would, before the nth line that the given file runs on the main thread
AT_LINE = """
def at_line(n, file, action):
    left = [n]
    def trace(frame, event, argument):
        if not frame.f_code.co_filename.endswith(file):
            return trace if "edge_llava" in frame.f_globals.get("__name__", "") else None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                action()
        return trace
    sys.settrace(trace)
    return left
"""


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("session.py", 25),
        ("gate.py", 53),
        ("queue.py", 7),
        pytest.param("session.py", 1, marks=pytest.mark.slow),
        pytest.param("gate.py", 11, marks=pytest.mark.slow),
        pytest.param("queue.py", 1, marks=pytest.mark.slow),
        pytest.param("answer.py", 3, marks=pytest.mark.slow),
        pytest.param("turn.py", 1, marks=pytest.mark.slow),
        pytest.param("tower.py", 5, marks=pytest.mark.slow),
    ],
)
def test_closing_in_a_signal_handler_at_many_lines(program, file, step):
    out = program(
        AT_LINE
        + f"""
ends, n = [], 1
while True:
    model = load()
    left = at_line(n, {file!r}, model.close)
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
    assert model.closed, n
    model.close()
    assert model.gate._is_freed, n
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
for delay in (0.001, 0.003, 0.01) if work == "prefill" else (0.001, 0.003, 0.01, 0.03, 0.06):
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
            while not model.gate._is_freed:
                time.sleep(0.001)
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
    ends = set(eval(out))
    closed = "this model is closed. Load it again."
    assert ends == {closed} if work == "encode" else "cancelled" in ends
    assert ends <= {"cancelled", closed} if work == "prefill" else len(ends) == 1  # closed before it was first read


# however a question was left: the session can be asked the next one, and nothing is left in the engine
LEAVING_AT_LINE = """
def interrupt():
    raise KeyboardInterrupt
def leave_at_lines(file, step, action):
    ends, n = [], 1
    model = load()
    embedding = model.embed_image(image)
    how = dataclasses.replace(SHORT, max_new_tokens=40)
    while True:
        chat, tokens = model.session(how), []
        left = at_line(n, file, chat.cancel if action == "cancel" else interrupt)
        try:
            for token in chat.ask("What is this?", image=embedding):
                tokens.append(token)
            ends.append(tokens[-1].finish_reason)
        except KeyboardInterrupt:
            ends.append("interrupted")
        sys.settrace(None)
        deadline = time.monotonic() + 20
        while model.engine._queue._inside:
            assert time.monotonic() < deadline, (n, model.metrics)
            time.sleep(0.001)
        chat.options = SHORT
        assert len(list(chat.ask("And now?"))) == 4, n
        if left[0] > 0:
            break
        n += step
    model.close()
    print(len(ends), *sorted(set(ends)))
"""


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("session.py", 19),
        ("turn.py", 17),
        ("queue.py", 3),
        pytest.param("session.py", 1, marks=pytest.mark.slow),
        pytest.param("turn.py", 1, marks=pytest.mark.slow),
        pytest.param("answer_reader.py", 1, marks=pytest.mark.slow),
        pytest.param("answer.py", 1, marks=pytest.mark.slow),
        pytest.param("engine.py", 1, marks=pytest.mark.slow),
        pytest.param("queue.py", 1, marks=pytest.mark.slow),
        pytest.param("gate.py", 7, marks=pytest.mark.slow),
    ],
)
def test_cancel_in_a_signal_handler_at_many_lines(program, file, step):
    n_tried, *ends = program(AT_LINE + LEAVING_AT_LINE + f"leave_at_lines({file!r}, {step}, 'cancel')").split()
    assert int(n_tried) > 3
    assert set(ends) == {"cancelled", "length"}


@pytest.mark.slow
@pytest.mark.parametrize(("file", "step"), [("session.py", 1), ("turn.py", 1)])
def test_ctrl_c_at_many_lines(program, file, step):
    n_tried, *ends = program(AT_LINE + LEAVING_AT_LINE + f"leave_at_lines({file!r}, {step}, 'interrupt')").split()
    assert int(n_tried) > 3
    assert set(ends) == {"interrupted", "length"}


@pytest.mark.parametrize("stage", ["encode", "prefill", "decode"])
def test_ctrl_c_reaches_the_program_wherever_the_engine_is(program, stage):
    """The answer ends, and the session keeps what was read of it."""
    out = program(
        f"""
from edge_llava.runtime.vision.image_encoder import ImageEncoder
def interrupted_at(n, owner, name):
    work, left = getattr(owner, name), [n]
    def run(*given):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return work(*given)
    setattr(owner, name, run)
model, stage = load(), {stage!r}
chat, n_read = model.session(LONG), 0
if stage == "encode":
    interrupted_at(1, ImageEncoder, "encode")
else:
    interrupted_at(2 if stage == "prefill" else 40, model.engine.language, "decode_tokens")
try:
    for token in chat.ask("What is this? " * 8, image=image):
        n_read += 1
except KeyboardInterrupt:
    print("interrupted", n_read > 0, chat.n_positions > 0, model.metrics.running, model.metrics.cancelled_total)
chat.options = SHORT
print(len(list(chat.ask("Why?", image=image))))
model.close()
"""
    )
    has_read = stage == "decode"
    assert out.splitlines() == [f"interrupted {has_read} {has_read} 0 1", "4"]


def test_cancel_in_a_signal_handler_by_the_clock(program):
    """As a chat does at Ctrl-C: the next token is the last."""
    out = program(
        """
model, ends = load(), []
chat = model.session(LONG)
signal.signal(signal.SIGALRM, lambda number, frame: chat.cancel())
for delay in (0.0005, 0.002, 0.01, 0.05):
    chat.clear()
    answer = chat.ask("word " * 60, image=image)
    signal.setitimer(signal.ITIMER_REAL, delay)
    tokens = list(answer)
    ends.append(tokens[-1].finish_reason)
    assert len(tokens) < 800, len(tokens)
print(*ends)
model.close()
"""
    )
    assert out.split() == ["cancelled"] * 4


def test_closing_an_engine_in_a_signal_handler(program):
    program(
        AT_LINE
        + """
for file, step in (("engine.py", 5), ("queue.py", 9), ("answer.py", 7), ("gate.py", 23)):
    n = 1
    while True:
        engine = open_engine()
        left = at_line(n, file, engine.close)
        try:
            answer = ask(engine, options=SHORT)
            answer.cancel()
            answer.wait(20)
        except edge_llava.EdgeLlavaError as error:
            assert "is closed" in str(error), error
        sys.settrace(None)
        engine.close()
        assert engine.gate._is_freed
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
print(ends[-1], engine.gate._is_freed)

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


FORK = """
def in_child(action):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        action()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0

def is_refused(action):
    says = refused(action)
    assert says is not None and "was opened in another process" in says, (action, says)
"""


def test_a_model_in_a_forked_child(program):
    """Also while another thread of the parent is answering, and holds whatever it holds."""
    out = program(
        FORK
        + """
model = load()
chat, paused = model.session(SHORT), model.session(LONG).ask("What?")
embedding = model.embed_image(image)
waiting = chat.ask("Why?")
async_answer = chat.ask_async("Why?")

def child():
    for action in (
        lambda: chat.ask("What?"), lambda: chat.ask("What?", image=embedding), model.session, chat.clear,
        lambda: model.embed_image(image), lambda: model.patch_features(image), lambda: chat.show_prompt("What?"),
        lambda: next(waiting), lambda: next(paused), lambda: list(paused), model.check_open,
        lambda: asyncio.run(anext(async_answer)), lambda: asyncio.run(async_answer.aclose()),
        lambda: edge_llava.caption_folder(model, "."),
    ):
        is_refused(action)
    chat.cancel()
    paused.close()
    model.close()
    with model:
        pass

in_child(child)                       # before any answer
busy = threading.Thread(target=lambda: list(paused))
busy.start()
while model.metrics.tokens_total < 10:
    time.sleep(0.001)
for _ in range(4):
    in_child(child)                   # during one
model.close()
busy.join()
in_child(lambda: is_refused(model.session))
with load() as model:                 # a child that only ends, with answers open
    answers = [model.session(LONG).ask("What?")]
    next(answers[0])
    in_child(lambda: None)
    in_child(answers.clear)
    in_child(gc.collect)
    assert len(list(answers.pop())) > 3
    assert len(list(model.session(SHORT).ask("What?", image=image))) == 4
print("parent answered")
"""
    )
    assert out == "parent answered\n"


@pytest.mark.parametrize("use", ["model.embed_image(image)", "list(model.session(SHORT).ask('What?', image=image))"])
def test_a_child_outlives_the_threads_of_the_vision_engine(program, use):
    """ONNX Runtime waits for its threads when a session is destroyed; a child has none of them."""
    out = program(
        FORK
        + f"""
model = edge_llava.load(bundle, edge_llava.EngineOptions(decoder, n_vision_threads=4, cache=False))
{use}
for _ in range(3):
    in_child(lambda: None)
def drop():
    global model
    del model
    gc.collect()
in_child(drop)
in_child(model.close)
{use}
model.close()
print("parent answered")
"""
    )
    assert out == "parent answered\n"


def test_a_child_loads_its_own_model(program):
    program(
        FORK
        + """
def answer(model):
    with model:
        assert len(list(model.session(SHORT).ask("What?", image=image))) == 4
model = load()
in_child(lambda: answer(load()))  # the parent's was never used
"""
    )


@pytest.mark.parametrize("closes", [True, False])
def test_a_child_of_a_process_that_answered_loads_its_own_model(program, closes):
    """GNU's OpenMP keeps the threads of a computation for the next one; a child has none of them."""
    out = program(
        FORK
        + f"""
two = edge_llava.EngineOptions(edge_llava.DecoderOptions(n_threads=2, n_batch=32), n_vision_threads=2, cache=False)
def answer(model):
    assert len(list(model.session(SHORT).ask("What?", image=image))) == 4
def answer_anew():
    with edge_llava.load(bundle, two) as model:
        answer(model)
model = edge_llava.load(bundle, two)
answer(model)
if {closes}:
    model.close()
in_child(answer_anew)
in_child(lambda: in_child(answer_anew))
answer_anew()
if not {closes}:
    answer(model)
    model.close()
print("parent answered")
"""
    )
    assert out == "parent answered\n"


def test_an_engine_in_a_forked_child(program):
    out = program(
        FORK
        + """
engine = open_engine()
begun = threading.Event()
answer = ask(engine, lambda token: begun.set())
begun.wait(20)

def child():
    assert not engine.is_open
    is_refused(lambda: ask(engine))
    is_refused(answer.wait)
    engine.metrics
    answer.cancel()
    engine.close()
    with engine:
        pass

for _ in range(4):
    in_child(child)
answer.cancel()
assert answer.wait(20)
second = ask(engine, options=SHORT)
assert second.wait(20)
print(second.finish_reason)
engine.close()
"""
    )
    assert out == "length\n"


def test_workers_of_multiprocessing(program):
    out = program(
        """
model = load()
list(model.session(SHORT).ask("What?", image=image))
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=lambda: queue.put(refused(lambda: model.session(SHORT).ask("What?"))))
child.start()
print(queue.get(timeout=30))
child.join(30)
print(child.exitcode)
"""
    )
    assert out.splitlines() == [
        "this model was opened in another process, which forked this one. Load it in this process.",
        "0",
    ]


LEFT_AT_EXIT = {
    "answer": "answer = load().session(LONG).ask('What?', image=image); next(answer)",
    "answer of a model that is kept": "model = load(); answer = model.session(LONG).ask('What?'); next(answer)",
    "unread": "answer = load().session(LONG).ask('What?')",
    "in a function": "model = load()\ndef f():\n    for token in model.session(LONG).ask('What?'): sys.exit(0)\nf()",
    "with a grammar": (
        "how = edge_llava.SamplingOptions(grammar='root ::= [a-z]+', max_new_tokens=99)\n"
        "answer = load().session(how).ask('What?'); next(answer)"
    ),
    "in a cycle": (
        "class App:\n    pass\napp = App(); app.me = app; app.model = load(); app.chat = app.model.session(LONG)\n"
        "app.chat.reader = app.chat.ask('What?'); next(app.chat.reader)"
    ),
    "async": (
        "async def main():\n    global answer\n    answer = load().session(LONG).ask_async('What?', image=image)\n"
        "    await anext(answer)\nasyncio.run(main())"
    ),
    "async, kept loop": (
        "loop, model = asyncio.new_event_loop(), load()\nanswer = model.session(LONG).ask_async('What?')\n"
        "loop.run_until_complete(answer.__anext__())\nloop.close()"
    ),
    "daemon thread": (
        "model, begun = load(), threading.Event()\ndef work():\n    while True:\n"
        "        for token in model.session(LONG).ask('word ' * 99): begun.set()\n"
        "def quiet():\n    try: work()\n    except edge_llava.EdgeLlavaError: pass\n"
        "threading.Thread(target=quiet, daemon=True).start(); begun.wait(20)"
    ),
    "thread that goes on": (
        "model = load()\ndef work():\n    time.sleep(0.3)\n"
        "    print(len(list(model.session(SHORT).ask('What?', image=image))), flush=True)\n"
        "threading.Thread(target=work).start()"
    ),
    "image": (
        "model = load()\ndef encode():\n    try:\n        while True: model.embed_image(image)\n"
        "    except edge_llava.EdgeLlavaError: pass\n"
        "threading.Thread(target=encode, daemon=True).start(); time.sleep(0.2)"
    ),
    "early image": "model = edge_llava.load(bundle, small, first_images=[image])",
    "engine": (
        "engine, begun = open_engine(), threading.Event()\n"
        "answers = [ask(engine, lambda token: begun.set(), str(n)) for n in range(5)]\nbegun.wait(20)"
    ),
    "engine that prints": "engine = open_engine()\nask(engine, lambda token: print(token.text, flush=True))",
    "interrupted": (
        "model = load()\nsignal.signal(signal.SIGALRM, lambda *_: sys.exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "while True: answer = model.session(LONG).ask('word ' * 99); list(answer)"
    ),
}


# llama-cpp-python never closes its own handles of /dev/null
STRICT = ("-O", "-W", "error", "-W", "ignore:unclosed file <_io.TextIOWrapper name='/dev/null'")


@pytest.mark.parametrize("left", LEFT_AT_EXIT)
@pytest.mark.parametrize(
    "options", [pytest.param((), id="plain"), pytest.param(STRICT, id="strict", marks=pytest.mark.slow)]
)
def test_what_is_left_when_the_program_ends(program, left, options):
    out = program(LEFT_AT_EXIT[left], *options)
    assert out == "4\n" if left == "thread that goes on" else out == "" or left == "engine that prints"


def test_dropped_models_are_freed(program):
    """Without the collector of cycles, so that none delays it."""
    out = program(
        """
import warnings
gc.disable()
import ctypes
def resident():
    while [thread for thread in threading.enumerate() if thread.name.startswith("edge-llava")]:
        time.sleep(0.005)  # they free what was dropped
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def drop(n):
    for index in range(n):
        model = load()
        answer = model.session(SHORT).ask("What?", image=image if index % 10 == 0 else None)
        next(answer)
        if index % 2:
            list(answer)
warnings.simplefilter("ignore")
drop(20)
before = resident()
drop(50)
grown = resident() - before  # of fifty, each of which has a KV cache of 8 MB
with warnings.catch_warnings(record=True) as caught:
    warnings.filterwarnings("always", message="this model")
    drop(3)
    resident()
print(grown // 1_000_000, {(w.category.__name__, str(w.message)) for w in caught}, len(caught))
"""
    )
    grown, rest = out.split(" ", 1)
    assert int(grown) < 30
    assert rest == "{('ResourceWarning', 'this model was dropped without close()')} 3\n"


def test_what_is_read_keeps_its_model(program):
    out = program(
        """
answer = load().session(SHORT).ask("What?", image=image)
gc.collect()
print(len(list(answer)))
chat = load().session(SHORT)
gc.collect()
print(len(list(chat.ask("What?"))))
async def main():
    return [token async for token in load().session(SHORT).ask_async("What?")]
print(len(asyncio.run(main())))
over = threading.Event()
answer = ask(open_engine(), lambda token: token.finish_reason and over.set(), options=SHORT)
gc.collect()
print(answer.wait(20), answer.finish_reason)
"""
    )
    assert out.splitlines() == ["4", "4", "4", "True length"]


def test_an_engine_that_is_dropped_ends_its_threads(program):
    program(
        """
engine = open_engine()
ask(engine, options=SHORT).wait(20)
gc.disable()
del engine
deadline = time.monotonic() + 20
while [thread for thread in threading.enumerate() if thread.name.startswith("edge-llava")]:
    assert time.monotonic() < deadline, threading.enumerate()
    time.sleep(0.005)
"""
    )


def test_the_collector_frees_models_in_the_middle_of_other_work(program):
    """On any thread, the tower's and the worker's included."""
    program(
        """
import warnings
warnings.simplefilter("ignore")
class Node:
    pass
def leave_cycle(make):
    node = Node()
    node.me, node.it = node, make()
gc.set_threshold(50)
engine = open_engine()
model = load()
for n in range(12):
    leave_cycle(load if n % 3 else open_engine)
    answers = [ask(engine, text=str(n), options=SHORT) for _ in range(2)]
    assert len(list(model.session(SHORT).ask(f"{n}", image=image))) == 4
    model.embed_image(np.roll(image, n))
    assert all(answer.wait(20) for answer in answers)
model.close()
engine.close()
"""
    )
