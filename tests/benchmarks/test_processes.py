"""Real peers answer with the requested number of tokens, and their failures are reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import PeerFailed, PeerProcess, run_cold

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


@pytest.mark.parametrize("code", ["import sys; sys.exit('no memory')", "import sys; sys.stderr.write('no memory')"])
def test_a_new_process_that_answers_nothing_is_reported(code):
    with pytest.raises(PeerFailed, match="no memory"):
        run_cold([sys.executable, "-c", code], {})
