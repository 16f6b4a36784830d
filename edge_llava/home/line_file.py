"""Files that only grow, line by line, while a long job runs: what was written survives a kill.

A line is written at once when it is complete. Half a line at the end is what a kill left.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_llava.home.lock import close_and_remove, open_held

_READ_BYTES = 1 << 12


class LineFile:
    """Open for one run, and for no other at the same time; `with` closes it.

    Attributes:
        path: Where it lies.
        is_new: Whether it was created by being opened.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: Created if it does not exist.

        Raises:
            NotRegular, HeldElsewhere, OSError: As `open_held`.
        """
        self.path = path
        self._file, self.is_new = open_held(path)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self, *, remove: bool = False) -> None:
        """Frees the file, and removes it if asked to; another file that took its place stays. Safe to call twice."""
        if self._file.closed:
            return
        if remove:
            close_and_remove(self.path, self._file)
        else:
            self._file.close()

    def append(self, line: bytes) -> int:
        """Writes a line, which must have its end; returns its offset.

        Raises:
            OSError: If the disk is full, for example; a part of the line may have been written.
        """
        offset, rest = self._file.seek(0, 2), memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]  # a nearly full disk takes a part, and refuses the rest
        return offset

    def size(self) -> int:
        """The number of bytes in the file."""
        return self._file.seek(0, 2)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yields the offset and the bytes of every line, with its end; the last one may have none."""
        offset = self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for line in file:
                yield offset, line
                offset += len(line)

    def line_at(self, offset: int) -> bytes:
        """The line that begins at an offset."""
        self._file.seek(offset)
        line = bytearray()
        while not line.endswith(b"\n") and (chunk := self._file.read(_READ_BYTES)):  # a raw file reads byte by byte
            end = chunk.find(b"\n")
            line += chunk if end < 0 else chunk[: end + 1]
        return bytes(line)

    def cut(self, offset: int) -> None:
        """Drops everything from an offset on."""
        self._file.truncate(offset)

    def drop_half_line(self) -> None:
        """Drops a last line that has no end."""
        for offset, line in self.lines():
            if not line.endswith(b"\n"):
                self.cut(offset)

    def end_last_line(self) -> None:
        """Gives the last line its end, where it has none."""
        size = self.size()
        if size and self.line_at(size - 1) != b"\n":
            self.append(b"\n")
