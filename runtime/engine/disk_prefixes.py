"""Beginnings of conversations that end with an image: read from disk while a job waits, written when it is over."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

import llama_cpp

from edge_llava.ggml.library import library_digest
from edge_llava.runtime.engine.job import DiskRead, Job
from edge_llava.runtime.kv.disk_cache import PrefixStore, entry_key
from edge_llava.runtime.kv.sequence import KvSequence
from edge_llava.runtime.kv.sequences import NoCells
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.lifetime.cancel import StopFlag
from edge_llava.runtime.lifetime.work_thread import WorkThread
from edge_llava.runtime.runs import image_ends

_log = logging.getLogger("edge_llava.cache")


class DiskPrefixes:
    """Between the jobs and the disk. For the engine's thread; reading and writing happen on a thread of its own."""

    def __init__(
        self, store: PrefixStore | None, language_sha256: str, decoder: Decoder, wake: Callable[[], None]
    ) -> None:
        """
        Args:
            store: The files; None: nothing is read or written.
            language_sha256: Digest of language.gguf.
            decoder: Its KV cache is what is read and written.
            wake: Called, on another thread, when something was read.
        """
        self._store, self._sequences, self._wake = store, decoder.sequences, wake
        self._conditions = "" if store is None else _conditions(language_sha256, decoder)
        self._thread = WorkThread("edge-llava-cache")
        self._closing = StopFlag()

    def count(self, job: Job, n_known: int) -> int:
        """Positions of the longest beginning on disk that has more than `n_known`; 0 if there is none."""
        _, n_positions = self._find(job, n_known, len(job.wanted)) or ("", 0)
        return n_positions

    def start(self, job: Job, n_below: int | None = None) -> None:
        """Begins to read the longest beginning of a job that is not coming already, shorter than `n_below`."""
        found = self._find(job, job.n_coming, len(job.wanted) if n_below is None else n_below)
        if self._store is not None and found is not None:
            (key, n_positions), cancel = found, StopFlag()
            state = self._thread.submit(self._store.load, key, cancel)
            job.reading = DiskRead(key, n_positions, state, time.perf_counter(), cancel)
            state.add_done_callback(lambda _: self._wake())

    def finish(self, job: Job) -> None:
        """Gives a job what was read for it; where that was damaged, the next best is read."""
        if job.reading is None or not job.reading.state.done():
            return
        reading, job.reading = job.reading, None
        state, n_before = reading.state.result(), job.n_computed
        is_good = state is not None
        if state is not None and n_before < reading.n_positions:  # otherwise another job has computed it
            is_good = self._restore(job, reading, state)
        job.answer.note_shared(job.n_computed - n_before)
        job.answer.note_prefill(time.perf_counter() - reading.started_at)
        if not is_good:
            self.start(job, reading.n_positions)

    def cancel(self, job: Job) -> None:
        """Stops reading for a job."""
        if job.reading is not None:
            job.reading.cancel.set()
            job.reading = None

    def write(self, job: Job, sequence: KvSequence | None) -> Future[None] | None:
        """Begins to write the beginning that an answered job wants on disk, from the sequence where it was computed.

        Returns:
            None if it is there already, or cannot be written.
        """
        ends = list(image_ends(job.request.to_disk))
        if self._store is None or sequence is None or not ends:
            return None
        image, end = ends[-1]
        prefix = job.wanted[:end]
        key = entry_key(self._conditions, image.identity, prefix)
        if self._store.touch(key) or not (state := self._sequences.copy_prefix(sequence, prefix)):
            return None
        return self._thread.submit(self._store.save, key, state, self._closing)

    def stop(self) -> None:
        """Stops what is being written."""
        self._closing.set()

    def close(self) -> None:
        """As `stop`, and waits until it has stopped; safe to call twice."""
        self.stop()
        self._thread.close()

    def _find(self, job: Job, n_known: int, n_below: int) -> tuple[str, int] | None:
        """Key and positions of the longest beginning on disk between these; it may turn out to be damaged."""
        if self._store is None:
            return None
        ends = [(image, end) for image, end in image_ends(job.request.runs) if n_known < end < n_below]
        keys = ((entry_key(self._conditions, image.identity, job.wanted[:end]), end) for image, end in reversed(ends))
        return next((found for found in keys if self._store.has(found[0])), None)

    def _restore(self, job: Job, reading: DiskRead, state: bytearray) -> bool:
        """Whether a state that was read is good, though there may be no room for it; a bad one is removed."""
        assert job.sequence is not None
        assert self._store is not None
        try:
            if self._sequences.restore(job.sequence, state, job.wanted[: reading.n_positions]):
                return True
        except NoCells:
            return True
        _log.warning("llama.cpp refused a kept prefix: it is removed, and computed again")
        self._store.remove(reading.key)
        return False


def _conditions(language_sha256: str, decoder: Decoder) -> str:
    """What decides the numbers in the KV cache apart from its positions.

    Where llama.cpp decides about flash attention, that follows from its build and the devices; it refuses a state of
    the other kind by itself.
    """
    conditions = {
        "language": language_sha256,
        "llama_cpp": library_digest(),
        "processor": llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
        "devices": [str(device) for device in decoder.devices],
        "settings": decoder.settings,
    }
    return json.dumps(conditions, sort_keys=True)
