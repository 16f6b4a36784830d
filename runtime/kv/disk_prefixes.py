"""Beginnings of conversations that end with an image, kept on disk: found by what they were computed from.

What else decides their numbers is part of the key: the language model's file, llama.cpp's build, and the settings of
the context.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import llama_cpp

from edge_llava.ggml.library import library_digest
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.lifetime.cancel import StopFlag
from edge_llava.runtime.lifetime.work_thread import WorkThread
from edge_llava.runtime.runs import ImageRun, Position, Run, image_ends, list_positions


def image_mark(identity: str) -> str:
    """What all keys of beginnings that end with an image start with, by the identity of its rows."""
    return identity[:16]


@dataclass(frozen=True)
class DiskPrefix:
    """A beginning of a conversation that is on disk, or could be.

    Attributes:
        key: Its entry.
        positions: What its positions were computed from.
    """

    key: str
    positions: tuple[Position, ...]


class DiskPrefixes:
    """Finds, reads and writes beginnings of conversations. Reading and writing happen on a thread of its own."""

    def __init__(self, store: PrefixStore, language_sha256: str, settings: Mapping[str, int]) -> None:
        """
        Args:
            store: The files.
            language_sha256: Digest of language.gguf.
            settings: Everything else that decides which numbers the KV cache holds, see `Decoder.settings`.
        """
        self._store = store
        self._conditions = json.dumps(
            {
                "language": language_sha256,
                "llama_cpp": library_digest(),
                "processor": llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
                "settings": dict(settings),
            },
            sort_keys=True,
        )
        self._thread = WorkThread("edge-llava-cache")
        self._closing = StopFlag()

    def find(self, runs: Sequence[Run], n_known: int, n_below: int | None = None) -> DiskPrefix | None:
        """The longest beginning of a conversation on disk; it may turn out to be damaged when it is read.

        Args:
            runs: The conversation.
            n_known: It has more positions than these.
            n_below: It has fewer positions than these; None: than the conversation.
        """
        positions = list_positions(runs)
        n_below = len(positions) if n_below is None else n_below
        ends = [(image, end) for image, end in image_ends(runs) if n_known < end < n_below]
        prefixes = (self._prefix(image, positions[:end]) for image, end in reversed(ends))
        return next((prefix for prefix in prefixes if self._store.has(prefix.key)), None)

    def read(self, prefix: DiskPrefix, cancel: StopFlag) -> Future[bytearray | None]:
        """Begins to read the state of a prefix; None if it is gone or damaged. Set `cancel` to stop."""
        return self._thread.submit(self._store.load, prefix.key, cancel)

    def to_write(self, beginning: Sequence[Run]) -> DiskPrefix | None:
        """The prefix that runs up to and including an image make, unless it is on disk; marked as used if it is."""
        if not beginning or not isinstance(beginning[-1], ImageRun):
            return None
        prefix = self._prefix(beginning[-1], list_positions(beginning))
        return None if self._store.touch(prefix.key) else prefix

    def write(self, prefix: DiskPrefix, state: bytearray) -> Future[None]:
        """Begins to write a prefix; `close` stops it."""
        return self._thread.submit(self._store.save, prefix.key, state, self._closing)

    def remove(self, prefix: DiskPrefix) -> None:
        """Removes a prefix that llama.cpp refused."""
        self._store.remove(prefix.key)

    def stop(self) -> None:
        """Stops what is being written."""
        self._closing.set()

    def close(self) -> None:
        """As `stop`, and waits until it has stopped; safe to call twice."""
        self.stop()
        self._thread.close()

    def _prefix(self, image: ImageRun, positions: Sequence[Position]) -> DiskPrefix:
        mark = image_mark(image.identity)
        digest = hashlib.sha256(f"{self._conditions}\n".encode())
        for position in positions:
            line = str(position) if isinstance(position, int) else f"{position[0]} {position[1]}"
            digest.update(f"{line}\n".encode())
        return DiskPrefix(mark + digest.hexdigest()[len(mark) :], tuple(positions))
