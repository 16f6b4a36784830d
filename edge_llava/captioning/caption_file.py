"""The output: one JSON line for each picture, appended when its answer is complete. It is also what a run resumes by.

A line is written at once; half a line at the end is what a kill left, and is dropped. Where a picture was changed and
captioned again, its later line counts.
"""

from __future__ import annotations

from contextlib import ExitStack
from io import FileIO
from pathlib import Path

from edge_llava.captioning.caption import Caption, Provenance, parse_line, read_caption
from edge_llava.errors import EdgeLlavaError, list_faults

_LINE_START = b'{"path": "'
_MAX_TOLD = 3


class CaptionFile:
    """Open for one run; `with` closes it. Only lines' places are kept in memory, not their text.

    Attributes:
        path: Where it lies.
    """

    def __init__(self, path: Path, provenance: Provenance, *, overwrite: bool) -> None:
        """
        Args:
            path: Created if it is not there.
            provenance: Of the answers to come; the lines that are there must have the same.
            overwrite: Begins anew if it was begun with other settings.

        Raises:
            EdgeLlavaError: If it cannot be written, is no caption file, or was begun with other settings; in the last
                two cases it is left as it was.
        """
        self.path = path
        self._provenance = provenance
        self._lines: dict[str, int] = {}  # sha256 -> offset of its first line
        self._held: dict[str, str] = {}  # path -> sha256 of its last line
        try:
            with ExitStack() as files:
                self._file = files.enter_context(path.open("ab+", buffering=0))
                self._read(overwrite=overwrite)
                files.pop_all()  # it stays open unless reading fails
        except OSError as error:
            raise EdgeLlavaError(
                f"{path} cannot be written: {error.strerror}. Choose another output with -o."
            ) from error

    def __enter__(self) -> CaptionFile:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()
        if not self._held:
            self.path.unlink(missing_ok=True)

    def names(self) -> frozenset[str]:
        """Paths of all pictures that have a line."""
        return frozenset(self._held)

    def holds(self, name: str, sha256: str) -> bool:
        """Whether this picture, with these bytes, has its line."""
        return self._held.get(name) == sha256

    def knows(self, sha256: str) -> bool:
        """Whether a picture with these bytes has a line."""
        return sha256 in self._lines

    def find(self, sha256: str) -> Caption:
        """The caption of a picture with these bytes.

        Raises:
            KeyError: If there is none.
        """
        self._file.seek(self._lines[sha256])
        return read_caption(parse_line(_read_line(self._file)), self._provenance.kind)

    def append(self, caption: Caption) -> None:
        """Writes a line.

        Raises:
            EdgeLlavaError: If the disk is full, for example; what was written before is kept.
        """
        offset, line = self._file.seek(0, 2), memoryview(self._provenance.to_line(caption))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise EdgeLlavaError(
                f"{self.path} cannot grow: {error.strerror}. Make room, and run the same command again to go on."
            ) from error
        self._note(caption.path, caption.sha256, offset)

    def _note(self, name: str, sha256: str, offset: int) -> None:
        self._lines.setdefault(sha256, offset)
        self._held[name] = sha256

    def _read(self, *, overwrite: bool) -> None:
        faults, differences, offset = list[str](), list[str](), 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    if line.strip():
                        record = parse_line(line)
                        differences = differences or self._provenance.differences(record)
                        self._note(record["path"], record["sha256"], offset)
                except ValueError as error:
                    if not line.endswith(b"\n") and _LINE_START.startswith(line[: len(_LINE_START)]):
                        break  # half a line
                    faults.append(f"line {number}: {error}")
                offset += len(line)
        self._refuse(faults, [] if overwrite else differences)
        if differences:
            self._lines, self._held, offset = {}, {}, 0
        self._file.truncate(offset)
        if offset:
            self._end_last_line(offset)

    def _end_last_line(self, offset: int) -> None:
        """A kill, or an editor, may have left a line that is complete but for its end."""
        self._file.seek(offset - 1)
        if self._file.read(1) != b"\n":
            self._file.write(b"\n")

    def _refuse(self, faults: list[str], differences: list[str]) -> None:
        if faults:
            more = [f"and {len(faults) - _MAX_TOLD} more"] * (len(faults) > _MAX_TOLD)
            advice = "Repair these lines, or choose another output with -o."
            raise EdgeLlavaError(list_faults(f"{self.path} is no caption file:", faults[:_MAX_TOLD] + more, advice))
        if differences:
            advice = "Go on with those, choose another output with -o, or replace it with --force."
            raise EdgeLlavaError(list_faults(f"{self.path} was begun with other settings:", differences, advice))


def _read_line(file: FileIO) -> bytes:
    """One line from here on; a raw file would read it byte by byte."""
    line = bytearray()
    while not line.endswith(b"\n") and (chunk := file.read(1 << 12)):
        end = chunk.find(b"\n")
        line += chunk if end < 0 else chunk[: end + 1]
    return bytes(line)
