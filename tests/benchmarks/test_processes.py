"""Real peers answer with the requested number of tokens, and their failures are reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import PeerFailed, PeerProcess, run_cold, run_new_peer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_a_loaded_peer_answers_and_stands_still_between(seeded_q4, photo, tmp_path):
    command = [sys.executable, "-m", "peers.edge_llava_peer", str(seeded_q4), "-t", "1"]
    with PeerProcess(command, tmp_path / "log") as peer:
        assert (peer.facts["n_threads"], peer.facts["n_vision_threads"], peer.facts["n_batch"]) == (1, 1, 512)
        first = peer.ask(photo, "What is this?", 4)
        state = Path(f"/proc/{peer.pid}/stat").read_text().rpartition(")")[2].split()[0]
        second = peer.ask(None, "What else?", 2)
        peak = peer.peak_bytes()
    assert state == "T"  # stopped
    assert 0 < first.first_s < first.total_s
    assert (first.n_tokens, second.n_tokens) == (4, 2)
    assert first.figures["vision_s"] > 0
    assert second.figures["vision_s"] == 0
    assert second.figures["prefill_tokens"] < first.figures["prompt_tokens"] < second.figures["prompt_tokens"]
    assert peak > 50e6


def test_a_new_peer_is_timed_from_its_start(photo, tmp_path):
    """The peer takes 0.3 s to load, and then 0.6 s of processor time for an answer."""
    peer = """
import time
from peers.protocol import serve

class Peer:
    facts = {}

    def __init__(self):
        time.sleep(0.3)

    def ask(self, image, question, n_tokens, on_first):
        on_first()
        while time.process_time() < 0.6:  # the system counts hundredths
            pass
        return {"n_tokens": n_tokens}

serve(Peer)
"""
    run, answer = run_new_peer([sys.executable, "-c", peer], tmp_path / "log", photo, "What is this?", 4)
    assert 0.3 + answer.first_s <= run.first_s < run.total_s
    assert run.total_s - run.first_s == pytest.approx(answer.total_s - answer.first_s)
    assert 0.5 <= run.cpu_s < run.total_s + 0.1
    assert run.peak_bytes > 1e6


def test_an_answer_that_ends_early_is_refused(seeded_q4, photo, tmp_path):
    command = [sys.executable, "-m", "peers.edge_llava_peer", str(seeded_q4), "-t", "1", "-c", "256"]
    with PeerProcess(command, tmp_path / "log") as peer, pytest.raises(PeerFailed, match=r"wrote \d+ tokens of 4096"):
        peer.ask(photo, "What is this?", 4096)


def test_a_peer_that_fails_says_why(tmp_path):
    command = [sys.executable, "-m", "peers.edge_llava_peer", str(tmp_path / "no-bundle")]
    with pytest.raises(PeerFailed, match=r"no-bundle"):
        PeerProcess(command, tmp_path / "log")


def test_a_new_process_is_timed_from_its_start():
    code = "import sys, time; data = bytearray(200 << 20); time.sleep(0.2); print('x', flush=True); time.sleep(0.2)"
    run = run_cold([sys.executable, "-c", code], {})
    assert run.first_s >= 0.2
    assert run.first_s + 0.2 <= run.total_s
    assert run.peak_bytes > 200 << 20
    assert 0 < run.cpu_s < run.total_s


@pytest.mark.parametrize("code", ["import sys; sys.exit('no memory')", "import sys; sys.stderr.write('no memory')"])
def test_a_new_process_that_answers_nothing_is_reported(code):
    with pytest.raises(PeerFailed, match="no memory"):
        run_cold([sys.executable, "-c", code], {})
