"""Asks one teacher many questions at once, on threads of this process; replies are returned as they arrive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence

from edge_llava.errors import DataError
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.journal import ReplyJob
from edge_llava.training.instructions.teacher import Teacher, TeacherReply

_WAIT_S = 0.5  # Windows cannot interrupt an endless wait


def ask_all(
    teacher: Teacher, questions: Sequence[tuple[ReplyJob, AnnotatedImage]], concurrency: int
) -> Generator[tuple[ReplyJob, TeacherReply], None, None]:
    """Yields every job with its reply, in the order in which the replies arrive.

    Close it to stop early: no further question is asked, and pending replies are not waited for.

    Raises:
        DataError: If the teacher raises it.
    """
    waiting: queue.SimpleQueue[tuple[ReplyJob, AnnotatedImage]] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[ReplyJob, TeacherReply] | DataError | None] = queue.SimpleQueue()
    stop = threading.Event()
    for question in questions:
        waiting.put(question)

    def work() -> None:
        try:
            while not stop.is_set():
                job, image = waiting.get_nowait()
                ready.put((job, teacher.reply(image, job.type)))
        except queue.Empty:
            pass  # everything has been asked
        except DataError as error:
            ready.put(error)
        except RuntimeError:
            if not stop.is_set():  # else the teacher was closed while it replied, and nothing waits for it
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
