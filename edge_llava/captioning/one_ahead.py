"""Works on the next item while the caller is busy with the current one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_one_ahead(
    items: Sequence[Item], work: Callable[[Item, threading.Event], Result]
) -> Generator[tuple[Item, Result], None, None]:
    """Yields each item with the result of `work`, in order.

    One thread works on the item after the caller's current one and no further, so that at most two results exist. If
    you leave the iterator early, close it (`contextlib.closing`): this tells the work to stop, and waits for it.

    Args:
        items: The items to work on.
        work: Called with an item, and an event that is set when its result will not be needed.

    Raises:
        Whatever `work` raises, when its result is due.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, "edge-llava-ahead") as thread:
        try:
            due = deque(thread.submit(work, first, stop) for first in items[:1])
            for index, item in enumerate(items):
                result = due.popleft().result()
                due.extend(thread.submit(work, following, stop) for following in items[index + 1 : index + 2])
                yield item, result
                del result  # before the next one is waited for
        finally:
            stop.set()
