"""What of a job's conversation is on disk: read while it waits, and written when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from edge_llava.runtime.engine.job import DiskRead, Job
from edge_llava.runtime.kv.disk_prefixes import DiskPrefixes
from edge_llava.runtime.kv.sequences import KvSequence, KvSequences, NoCells
from edge_llava.runtime.lifetime.cancel import StopFlag

_log = logging.getLogger("edge_llava.cache")


class PrefixReader:
    """Between the jobs and the disk. For the engine's thread."""

    def __init__(self, prefixes: DiskPrefixes | None, sequences: KvSequences, wake: Callable[[], None]) -> None:
        """
        Args:
            prefixes: What is on disk; None: nothing is read or written.
            sequences: The KV cache.
            wake: Called, on another thread, when something was read.
        """
        self._prefixes, self._sequences, self._wake = prefixes, sequences, wake

    def count(self, job: Job, n_known: int) -> int:
        """Positions of the longest beginning on disk that has more than `n_known`; 0 if there is none."""
        if self._prefixes is None:
            return 0
        prefix = self._prefixes.find(job.request.runs, n_known)
        return len(prefix.positions) if prefix is not None else 0

    def count_coming(self, job: Job) -> int:
        """Positions of a job that are computed, or are being read."""
        return max(job.n_computed, len(job.reading.prefix.positions) if job.reading is not None else 0)

    def start(self, job: Job, n_below: int | None = None) -> None:
        """Begins to read the longest beginning of a job that is longer than what is known of it.

        Args:
            job: Which.
            n_below: It must be shorter than this.
        """
        if self._prefixes is None:
            return
        n_known = max(job.n_computed, (job.prefix_source() or (0, None))[0])
        prefix = self._prefixes.find(job.request.runs, n_known, n_below)
        if prefix is not None:
            cancel = StopFlag()
            job.reading = DiskRead(prefix, self._prefixes.read(prefix, cancel), time.perf_counter(), cancel)
            job.reading.state.add_done_callback(lambda _: self._wake())

    def finish(self, job: Job) -> None:
        """Gives a job what was read for it; where that was damaged, the next best is read."""
        if job.reading is None or self._prefixes is None or not job.reading.state.done():
            return
        reading, job.reading = job.reading, None
        n_before = job.n_computed
        is_taken = self._take(job, reading, reading.state.result())
        job.answer.note_shared(job.n_computed - n_before)
        job.answer.note_prefill(time.perf_counter() - reading.started_at)
        if not is_taken:
            self.start(job, len(reading.prefix.positions))

    def _take(self, job: Job, reading: DiskRead, state: bytearray | None) -> bool:
        """Whether the job needs nothing else from disk."""
        if state is None or job.sequence is None:
            return False
        if job.n_computed >= len(reading.prefix.positions):  # another job computed it
            return True
        try:
            is_taken = self._sequences.restore(job.sequence, state, reading.prefix.positions)
        except NoCells:
            return True
        if not is_taken and self._prefixes is not None:
            _log.warning("llama.cpp refused a kept prefix: it is removed, and computed again")
            self._prefixes.remove(reading.prefix)
        return is_taken

    def write(self, job: Job, sequence: KvSequence | None) -> Future[None] | None:
        """Begins to write the beginning that a job wants on disk, unless it is there; None if it is not written.

        Args:
            job: What was answered.
            sequence: Where it was computed.
        """
        if self._prefixes is None or sequence is None:
            return None
        prefix = self._prefixes.to_write(job.request.to_disk)
        if prefix is None:
            return None
        state = self._sequences.copy_prefix(sequence, prefix.positions)
        return self._prefixes.write(prefix, state) if state else None

    def cancel(self, job: Job) -> None:
        """Stops reading for a job."""
        if job.reading is not None:
            job.reading.cancel.set()
            job.reading = None
