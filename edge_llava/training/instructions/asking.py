"""Many questions to one teacher at once, from threads of this process; answers come back as they are ready."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence

from edge_llava.errors import DataError
from edge_llava.training.instructions.annotation import AnnotatedPicture
from edge_llava.training.instructions.journal import Job
from edge_llava.training.instructions.teacher import Reply, Teacher

_WAIT_S = 0.5  # Windows cannot interrupt a wait without end


def ask_all(
    teacher: Teacher, questions: Sequence[tuple[Job, AnnotatedPicture]], concurrency: int
) -> Generator[tuple[Job, Reply], None, None]:
    """Yields every job with its reply, in the order in which they are ready.

    Close it when you stop early: no further question is asked then. Replies that are on their way are not waited for.

    Raises:
        DataError: What the teacher raised.
    """
    waiting: queue.SimpleQueue[tuple[Job, AnnotatedPicture]] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[Job, Reply] | DataError | None] = queue.SimpleQueue()
    stop = threading.Event()
    for question in questions:
        waiting.put(question)

    def work() -> None:
        try:
            while not stop.is_set():
                job, picture = waiting.get_nowait()
                ready.put((job, teacher.reply(picture, job.type)))
        except queue.Empty:
            pass  # all is asked
        except DataError as error:
            ready.put(error)
        except RuntimeError:
            if not stop.is_set():  # else the teacher was closed while it replied, and nobody waits
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
