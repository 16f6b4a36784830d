"""The output: one JSON line for each picture, appended when its answer is complete. It is also what a run resumes by.

A line is written at once; half a line at the end is what a kill left, and is dropped. Where a picture was changed and
captioned again, its later line counts.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path

from edge_llava.captioning.caption import Caption, Provenance, parse_line, read_caption
from edge_llava.captioning.file_lock import HeldElsewhere, NoOrdinaryFile, is_at, open_alone
from edge_llava.errors import EdgeLlavaError, list_faults

_LINE_START = b'{"path": "'
_MAX_TOLD = 3


class CaptionFile:
    """Open for one run, and for no other meanwhile; `with` closes it. Lines' places are kept in memory, not their text.

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
            EdgeLlavaError: If it cannot be written, is written by another run, is no caption file, or was begun with
                other settings; it is left as it was.
        """
        self.path = path
        self._provenance = provenance
        self._lines: dict[str, int] = {}  # sha256 -> offset of its first line
        self._held: dict[str, str] = {}  # path -> sha256 of its last line
        self._file, self._is_new = _open(path)
        try:
            with ExitStack() as files:
                files.callback(self.close)
                self._read(overwrite=overwrite)
                files.pop_all()  # it stays open unless reading fails
        except OSError as error:
            raise _unwritable(path, error.strerror) from error

    def __enter__(self) -> CaptionFile:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; one that this run created, and wrote nothing to, goes away. Safe to call twice."""
        if self._file.closed:
            return
        is_useless = self._is_new and not self._held and is_at(self.path, self._file)
        if is_useless and os.name != "nt":
            self.path.unlink(missing_ok=True)  # while no other run can hold it
        self._file.close()
        if is_useless and os.name == "nt":  # where nothing open can be removed
            with suppress(PermissionError):  # the next run has it already
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
            EdgeLlavaError: If it cannot be read any more.
        """
        offset = self._lines[sha256]
        try:
            self._file.seek(offset)
            return read_caption(parse_line(_read_line(self._file)), self._provenance.kind)
        except (OSError, ValueError, KeyError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it was changed meanwhile ({error})"
            raise EdgeLlavaError(
                f"{self.path} cannot be read: {reason}. When it can be, run the same command again to go on."
            ) from error

    def append(self, caption: Caption) -> None:
        """Writes a line.

        Raises:
            EdgeLlavaError: If the disk is full, for example; what was written before is kept.
        """
        line = memoryview(self._provenance.to_line(caption))
        try:
            offset = self._file.seek(0, 2)
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
        faults, differences, offset, is_torn = list[str](), list[str](), 0, False
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                try:
                    if line.strip():
                        record = parse_line(line)
                        differences = differences or self._provenance.differences(record)
                        self._note(record["path"], record["sha256"], offset)
                except ValueError as error:
                    if not line.endswith(b"\n") and _LINE_START.startswith(line[: len(_LINE_START)]):
                        is_torn = True  # half a line
                        break
                    faults.append(f"line {number}: {error}")
                offset += len(line)
        self._refuse(faults, [] if overwrite else differences)
        if differences:
            self._lines, self._held, offset = {}, {}, 0
        if is_torn or differences:
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


def _open(path: Path) -> tuple[FileIO, bool]:
    """As `open_alone`, with errors for users."""
    try:
        return open_alone(path)
    except NoOrdinaryFile as error:
        raise _unwritable(path, "it is no ordinary file, which a later run could go on with") from error
    except HeldElsewhere as error:
        raise EdgeLlavaError(
            f"{path} is being written by another run. Wait until it ends, or choose another output with -o."
        ) from error
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def _unwritable(path: Path, reason: str | None) -> EdgeLlavaError:
    return EdgeLlavaError(f"{path} cannot be written: {reason}. Choose another output with -o.")


def _read_line(file: FileIO) -> bytes:
    """One line from here on; a raw file would read it byte by byte."""
    line = bytearray()
    while not line.endswith(b"\n") and (chunk := file.read(1 << 12)):
        end = chunk.find(b"\n")
        line += chunk if end < 0 else chunk[: end + 1]
    return bytes(line)
