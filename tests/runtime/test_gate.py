from __future__ import annotations

import threading

import pytest

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.batch.caught import Caught
from edge_llava.runtime.gate import Gate


def test_closing_waits_for_those_inside():
    gate, order = Gate("this thing"), []
    with gate.inside(), gate.inside():
        closing = threading.Thread(target=lambda: (gate.close(), order.append("closed")))
        closing.start()
        while not gate.closed:
            closing.join(0.001)
        with pytest.raises(EdgeLlavaError, match=r"^this thing is closed"), gate.inside():
            pass
        order.append("inside")
    closing.join(30)
    assert order == ["inside", "closed"]
    gate.close()


def test_an_error_inside_leaves_it():
    gate = Gate("this thing")
    with pytest.raises(KeyError), gate.inside():
        raise KeyError
    gate.close()


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_caught_keeps_whatever_is_raised(kind):
    raised = kind("a")
    with Caught() as caught:
        raise raised
    assert caught.error is raised
    with Caught() as caught:
        pass
    assert caught.error is None
