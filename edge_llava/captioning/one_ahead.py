"""Work on the next item while the caller is busy with this one."""

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
    """Yields each item with what `work` made of it, in order.

    One thread works on the item after the one that the caller has; it never gets further, so two results exist at most.
    Close the iterator when leaving it early (`contextlib.closing`): that tells the work to stop, and waits for it.

    Args:
        items: What to work on.
        work: Called with an item, and an event that is set when its result will not be needed.

    Raises:
        What `work` raises, when its result is due.
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
