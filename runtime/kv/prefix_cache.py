"""What need not be computed again: the KV cache, and behind it the disk."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence

import llama_cpp

from edge_llava.ggml.library import library_digest
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.language.single_decoder import Decoder
from edge_llava.runtime.runs import ImageRun, Position, Run, image_ends, list_positions

_log = logging.getLogger("edge_llava.cache")


def picture_mark(identity: str) -> str:
    """What the keys begin with of beginnings that end with a picture, by the identity of its rows."""
    return identity[:16]


class PrefixCache:
    """Finds the longest beginning of a conversation that was computed before, for any conversation.

    A beginning is found by what every one of its positions was computed from: token ids, and the identities of picture
    rows. On disk it ends with a picture, and what else decides its numbers is part of its key: the language model's
    file, llama.cpp's build, and the decoder's settings.
    """

    def __init__(self, decoder: Decoder, language_sha256: str, store: PrefixStore | None) -> None:
        """
        Args:
            decoder: Owns the KV cache.
            language_sha256: Digest of language.gguf.
            store: Where prefixes are kept for later; None keeps nothing on disk and looks for nothing there.
        """
        self._decoder, self._store = decoder, store
        self._language_sha256 = language_sha256

    def count(self, conversation: Sequence[Run]) -> int:
        """Positions that `reuse` would find; only looks, so another thread may be answering."""
        positions = list_positions(conversation)
        n_kept = self._decoder.count_common(positions)
        stored = (end for end, key in self._candidates(conversation, positions, n_kept) if self._has(key))
        return next(stored, n_kept)

    def reuse(self, conversation: Sequence[Run], cancel: threading.Event) -> int:
        """Leaves in the KV cache the longest beginning of a conversation that is there or on disk, and nothing else.

        Returns:
            Positions that need not be computed; at least the last one always needs to be.

        Raises:
            Cancelled: If `cancel` was set while reading.
        """
        positions = list_positions(conversation)
        for end, key in self._candidates(conversation, positions, self._decoder.count_common(positions)):
            if self._restore(key, positions[:end], cancel):
                return end
        return self._decoder.keep_common_prefix(positions)

    def keep(self, beginning: Sequence[Run], cancel: threading.Event) -> None:
        """Writes the beginning of a conversation that is in the KV cache to disk, if it is not there yet.

        Args:
            beginning: Runs up to and including a picture.
            cancel: Set it from another thread to stop.

        Raises:
            Cancelled: If `cancel` was set meanwhile.
        """
        if self._store is None or not beginning or not isinstance(beginning[-1], ImageRun):
            return
        positions = list_positions(beginning)
        key = self._key(beginning[-1], positions)
        if self._store.touch(key):
            return
        if state := self._decoder.state(positions):
            self._store.save(key, state, cancel)

    def _restore(self, key: str, positions: list[Position], cancel: threading.Event) -> bool:
        if self._store is None or (state := self._store.load(key, cancel)) is None:
            return False
        if self._decoder.restore(state, positions):
            return True
        _log.warning("llama.cpp refused a kept prefix: it is removed, and computed again")
        self._store.remove(key)
        return False

    def _candidates(self, conversation: Sequence[Run], positions: list[Position], n_kept: int) -> list[tuple[int, str]]:
        """Ends and keys of the beginnings that may be on disk and are longer than `n_kept`, the longest first."""
        if self._store is None:
            return []
        ends = [(image, end) for image, end in image_ends(conversation) if n_kept < end < len(positions)]
        return [(end, self._key(image, positions[:end])) for image, end in reversed(ends)]

    def _has(self, key: str) -> bool:
        return self._store is not None and self._store.has(key)

    def _key(self, picture: ImageRun, positions: Sequence[Position]) -> str:
        """The key of a beginning that ends with a picture."""
        mark = picture_mark(picture.identity)
        digest = hashlib.sha256(self._conditions().encode())
        for position in positions:
            line = str(position) if isinstance(position, int) else f"{position[0]} {position[1]}"
            digest.update(f"{line}\n".encode())
        return mark + digest.hexdigest()[len(mark) :]

    def _conditions(self) -> str:
        conditions = {
            "language": self._language_sha256,
            "llama_cpp": library_digest(),
            "processor": llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
            "settings": self._decoder.settings,
        }
        return json.dumps(conditions, sort_keys=True) + "\n"
