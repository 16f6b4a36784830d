"""Asks many questions at once, on threads of this process; replies are returned as they arrive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from edge_llava.errors import DataError

_WAIT_S = 0.5  # Windows cannot interrupt an endless wait
_Question = TypeVar("_Question")
_Reply = TypeVar("_Reply")


def ask_all(
    ask: Callable[[_Question], _Reply], questions: Sequence[_Question], concurrency: int
) -> Generator[tuple[_Question, _Reply], None, None]:
    """Yields every question with its reply, in the order in which the replies arrive.

    Close it to stop early: no further question is asked, and pending replies are not waited for.

    Raises:
        DataError: If `ask` raises it.
    """
    waiting: queue.SimpleQueue[_Question] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[_Question, _Reply] | DataError | None] = queue.SimpleQueue()
    stop = threading.Event()
    for question in questions:
        waiting.put(question)

    def work() -> None:
        try:
            while not stop.is_set():
                question = waiting.get_nowait()
                ready.put((question, ask(question)))
        except queue.Empty:
            pass  # everything has been asked
        except DataError as error:
            ready.put(error)
        except RuntimeError:
            if not stop.is_set():  # else the client was closed while it waited, and nothing waits for the reply
                raise
        finally:
            ready.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(concurrency, len(questions)))]
    n_working, n_open = len(threads), len(questions)
    try:
        for thread in threads:
            thread.start()
        while n_working:
            try:
                found = ready.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
            if isinstance(found, DataError):
                raise found
            if found is None:
                n_working -= 1
            else:
                n_open -= 1
                yield found
        if n_open:
            raise RuntimeError(f"the threads ended before {n_open} questions were asked")
    finally:
        stop.set()
