"""Computed prefixes of conversations as files, for later processes. Knows files and digests, no engine.

One entry is one file, <key>.kv, little-endian:

    offset  bytes
         0     16  b"edge-llava kv\\0\\0\\0"
        16      8  format version, 1
        24     32  key
        56      8  size of the state
        64     32  sha256 of the state
        96         the state

Files derive from private images: they are 0600 in a directory that is 0700. Several processes may share the
directory: entries appear by rename, and any of them may vanish at any time.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.errors import EdgeLlavaError
from edge_llava.home.files import PARTIAL, atomic_file, remove_abandoned
from edge_llava.home.regular_file import open_regular
from edge_llava.runtime.lifetime.cancel import Cancelled

if TYPE_CHECKING:
    from edge_llava.runtime.runs import Position

MAX_BYTES = 2_000_000_000
_HEADER = struct.Struct("<16sQ32sQ32s")
_MAGIC = b"edge-llava kv\0\0\0"
_VERSION = 1
_ENTRY = re.compile(r"[0-9a-f]{64}\.kv")  # whatever else lies there is not ours
_CHUNK_BYTES = 1 << 22  # between two looks at `cancel`
_N_MARK = 16  # digits with which all keys of beginnings that end with the same image start
_log = logging.getLogger("edge_llava.cache")


@dataclass(frozen=True)
class StoredFile:
    """One file of the store: its size, and when it was last used (seconds since 1970)."""

    path: Path
    n_bytes: int
    used_s: float


def entry_key(conditions: str, identity: str, positions: Sequence[Position]) -> str:
    """The key of a beginning that ends with an image: 64 hex digits.

    Args:
        conditions: What else decides the numbers of its state.
        identity: Of the image's rows.
        positions: What each of its positions was computed from.
    """
    digest = hashlib.sha256(f"{conditions}\n".encode())
    for position in positions:
        line = str(position) if isinstance(position, int) else f"{position[0]} {position[1]}"
        digest.update(f"{line}\n".encode())
    return identity[:_N_MARK] + digest.hexdigest()[_N_MARK:]


class PrefixStore:
    """A directory of entries with a common size limit; the least recently used go first.

    Attributes:
        directory: It is made with the first entry.
        max_bytes: Of all files together.
    """

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self.directory, self.max_bytes = directory, max_bytes

    def has(self, key: str) -> bool:
        """Whether there is an entry; it may turn out to be damaged."""
        return os.path.isfile(self._path(key))

    def has_image(self, identity: str) -> bool:
        """Whether there is an entry for a beginning that ends with an image."""
        return any(file.path.name.startswith(identity[:_N_MARK]) for file in self._scan(_ENTRY))

    def load(self, key: str, cancel: threading.Event) -> bytearray | None:
        """The state of an entry, marked as used now; None if there is none. A damaged one is removed with a warning.

        Raises:
            Cancelled: If `cancel` was set before it was read.
        """
        path = self._path(key)
        try:
            with open_regular(path, self.max_bytes) as file:
                state = _read_entry(file, key, cancel)
        except FileNotFoundError:
            return None
        except _Damaged as fault:
            _log.warning("%s is ignored and written again: %s", path, fault)
            self.remove(key)
            return None
        except OSError as error:
            _log.warning("%s cannot be read: %s", path, error.strerror)
            return None
        self.touch(key)  # in vain if another process has just removed it
        return state

    def touch(self, key: str) -> bool:
        """Marks an entry as used now; whether there is one."""
        try:
            os.utime(self._path(key))
        except OSError:
            return False
        return True

    def remove(self, key: str) -> None:
        """Removes an entry, if there is one."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", path, error.strerror)

    def save(self, key: str, state: bytearray, cancel: threading.Event) -> None:
        """Writes an entry, unless it alone exceeds `max_bytes`; older ones make room. A disk that refuses is a warning.

        Raises:
            Cancelled: If `cancel` was set before it was written; nothing is left behind.
        """
        n_bytes = _HEADER.size + len(state)
        if n_bytes > self.max_bytes:
            return
        path = self._path(key)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(n_bytes)
            digest = _digest(state, cancel)
            with atomic_file(path, 0o600) as file:
                file.write(_HEADER.pack(_MAGIC, _VERSION, bytes.fromhex(key), len(state), digest))
                for chunk in _chunks(state, cancel):
                    file.write(chunk)
        except OSError as error:
            _log.warning("%s cannot be kept: %s", path, error.strerror)

    def files(self) -> list[StoredFile]:
        """The entries, least recently used first."""
        return sorted(self._scan(_ENTRY), key=lambda file: (file.used_s, file.path))

    def clear(self) -> int:
        """Removes every entry; returns how many there were.

        Raises:
            EdgeLlavaError: If one cannot be removed.
        """
        n_entries = len(self.files())
        for file in [*self._scan(_ENTRY), *self._scan(PARTIAL)]:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise EdgeLlavaError(f"{file.path} cannot be removed: {error.strerror}.") from error
        return n_entries

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.kv"

    def _make_room(self, n_bytes: int) -> None:
        remove_abandoned(self.directory)
        files = self.files()
        surplus = sum(file.n_bytes for file in files) + n_bytes - self.max_bytes
        for file in files:
            if surplus <= 0:
                return
            self.remove(file.path.stem)
            surplus -= file.n_bytes

    def _scan(self, kind: re.Pattern[str]) -> Iterator[StoredFile]:
        try:
            found = [path for path in self.directory.iterdir() if kind.fullmatch(path.name)]
        except OSError:
            return  # nothing was kept yet
        for path in found:
            try:
                status = path.stat()
            except OSError:
                continue  # another process has just removed it
            yield StoredFile(path, status.st_size, status.st_mtime)


class _Damaged(Exception):
    """An entry that is not what its name says; the message says how."""


def _read_entry(file: io.BufferedReader, key: str, cancel: threading.Event) -> bytearray:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _Damaged("it is truncated")
    magic, version, found_key, n_bytes, sha256 = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION:
        raise _Damaged("it is not an entry of this version")
    if found_key != bytes.fromhex(key):
        raise _Damaged("it is another entry's file")
    if os.fstat(file.fileno()).st_size != _HEADER.size + n_bytes:
        raise _Damaged("its size is wrong")
    state, digest = bytearray(n_bytes), hashlib.sha256()
    for chunk in _chunks(state, cancel):
        if file.readinto(chunk) != len(chunk):
            raise _Damaged("it is truncated")
        digest.update(chunk)
    if digest.digest() != sha256:
        raise _Damaged("its sha256 is wrong")
    return state


def _digest(state: bytearray, cancel: threading.Event) -> bytes:
    digest = hashlib.sha256()
    for chunk in _chunks(state, cancel):
        digest.update(chunk)
    return digest.digest()


def _chunks(state: bytearray, cancel: threading.Event) -> Iterator[memoryview]:
    """Parts of a state, with a look at `cancel` before each."""
    for start in range(0, len(state), _CHUNK_BYTES):
        if cancel.is_set():
            raise Cancelled
        yield memoryview(state)[start : start + _CHUNK_BYTES]
