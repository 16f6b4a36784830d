from __future__ import annotations

import sys
import threading
from contextlib import suppress

import pytest

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.lifetime.caught import Caught
from edge_llava.runtime.lifetime.gate import Gate


@pytest.fixture
def gate():
    """A gate that counts: how often it was stopped, how often freed, and how many were inside then."""

    def free():
        made.freed.append(sum(made._inside.values()) - 1)  # without the thread that frees

    made = Gate("this thing", lambda: made.stopped.append(True), free)
    made.stopped, made.freed = [], []
    yield made
    made.close()
    assert made.freed == [0]


def in_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_closing_waits_for_those_inside(gate):
    order = []
    with gate.inside(), gate.inside():
        closing = in_thread(lambda: (gate.close(), order.append("closed")))
        while not gate.closed:
            closing.join(0.001)
        with pytest.raises(EdgeLlavaError, match=r"^this thing is closed"), gate.inside():
            pass
        order.append("inside")
        assert gate.freed == []
    closing.join(30)
    assert order == ["inside", "closed"]
    gate.close()


def test_an_error_inside_leaves_it(gate):
    with pytest.raises(KeyError), gate.inside():
        raise KeyError
    gate.close()
    assert gate.freed == [0]


def test_a_thread_that_is_inside_does_not_wait_for_itself(gate):
    with gate.inside():
        with gate.inside():
            gate.close()
            gate.close()
            assert (gate.closed, len(gate.stopped) > 0, gate.freed) == (True, True, [])
        assert gate.freed == []
    assert gate.freed == [0]


def test_closing_while_closing_frees_once(gate):
    """The second call comes from what the first one calls, as a signal handler's would."""
    freed = gate._free
    gate._free = lambda: (gate.close(), freed())
    gate.close()
    assert gate.freed == [0]


def test_a_visitor_comes_in_after_closing_and_a_user_does_not(gate):
    gate.close()
    with gate.visiting():
        pass
    with pytest.raises(EdgeLlavaError, match=r"^this thing is closed. Load it again.$"), gate.inside():
        pass
    assert gate.freed == [0]


def test_a_signal_at_any_line_of_the_gate(gate):
    """A handler that closes is run before each line of the gate's methods in turn: nothing waits, all is freed once."""
    for n in range(1000):
        freed = []
        tried = Gate("this thing", lambda: None, lambda freed=freed: freed.append(True))
        if not closes_at_line(n, tried):
            break
        tried.close()
        assert freed == [True], f"line {n}"
    assert 20 < n < 999


def closes_at_line(n, gate):
    """Uses a gate, and closes it before the nth line of gate.py that runs; returns whether there were so many."""
    left, is_closing = [n], [False]

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.endswith("gate.py"):
            return None
        if event == "line" and not is_closing[0]:
            left[0] -= 1
            if left[0] < 0:
                is_closing[0] = True
                gate.close(20)
                assert threading.get_ident() in gate._inside or gate._is_freed
        return trace

    sys.settrace(trace)
    try:
        with suppress(EdgeLlavaError), gate.visiting(), gate.inside():
            pass
        gate.close()
    finally:
        sys.settrace(None)
    return is_closing[0]


def test_the_last_of_many_frees():
    for _ in range(20):
        freed, inside = [], threading.Barrier(5)
        gate = Gate("this thing", lambda: None, lambda freed=freed: freed.append(True))

        def use(gate=gate, inside=inside):
            with gate.inside():
                inside.wait(20)

        threads = [in_thread(use) for _ in range(4)]
        inside.wait(20)
        closers = [in_thread(gate.close) for _ in range(2)]
        gate.close()
        for thread in (*threads, *closers):
            thread.join(20)
            assert not thread.is_alive()
        assert freed == [True]


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_caught_keeps_whatever_is_raised(kind):
    raised = kind("a")
    with Caught() as caught:
        raise raised
    assert caught.error is raised
    with Caught() as caught:
        pass
    assert caught.error is None
