"""The first signal asks a run to stop in order; a second one interrupts it."""

from __future__ import annotations

import signal

import pytest

from edge_llava.cli import stop_request
from edge_llava.cli.stop_request import watch_for_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts_at_once(capfd, monkeypatch, number):
    """But not one within a second: after Ctrl-C, a launcher may send SIGTERM to processes that the terminal stopped."""
    now = 100.0
    monkeypatch.setattr(stop_request, "monotonic", lambda: now)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with watch_for_stop() as is_requested:
        assert not is_requested()
        signal.raise_signal(number)
        assert is_requested()
        assert "press Ctrl-C again" in capfd.readouterr().err
        now += 0.9
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == ""
        now += 0.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of POSIX")
def test_an_ignored_signal_stays_ignored():
    """As `nohup` starts commands."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watch_for_stop() as is_requested:
            signal.raise_signal(signal.SIGHUP)
            assert not is_requested()
    finally:
        signal.signal(signal.SIGHUP, before)
