"""The request to stop a long job in order: the first Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from edge_llava.cli.display import note

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ONE_REQUEST_S = 1.0  # after Ctrl-C, a launcher (accelerate, torchrun) signals its processes, as the terminal did


@contextmanager
def watch_for_stop() -> Iterator[Callable[[], bool]]:
    """Yields whether a stop was requested; a second signal does what it does without this block.

    Signals within a second of the first one belong to the same request and do nothing more.
    SIGHUP, which a terminal sends when it is closed, counts too; signals that are ignored (nohup) stay ignored.
    """
    requested_at: list[float] = []

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request(number: int, _frame: FrameType | None) -> None:
        now = monotonic()
        if requested_at:
            if now - requested_at[0] >= _ONE_REQUEST_S:
                restore()
                signal.raise_signal(number)
            return
        requested_at.append(now)
        with contextlib.suppress(OSError, RuntimeError):  # a closed terminal; the signal came while a line was written
            note("Finishing this step and saving; press Ctrl-C again to stop without saving.")

    previous = {}
    if threading.current_thread() is threading.main_thread():
        obeyed = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, request) for number in obeyed}
    try:
        yield lambda: bool(requested_at)
    finally:
        restore()
