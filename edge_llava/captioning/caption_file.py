"""The output: one line for each image, appended when its answer is complete. A later run resumes from it.

The name's suffix decides the format of a line: JSON, or CSV. Each line is written at once. A partial line at the end
was left by a killed run, and is dropped. If an image was changed and captioned again, its later line counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from edge_llava.captioning.caption import Caption, Provenance, read_caption
from edge_llava.captioning.csv_rows import CsvRows
from edge_llava.captioning.json_lines import JsonLines
from edge_llava.errors import EdgeLlavaError, list_faults
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import HeldElsewhere, NotRegular

SUFFIXES = (".jsonl", ".csv")
_MAX_SHOWN = 3


class CaptionFile:
    """A caption file, locked for one run; `with` closes it. Offsets of lines are kept in memory, their text is not.

    Attributes:
        path: Path of the file.
    """

    def __init__(self, path: Path, provenance: Provenance, *, overwrite: bool) -> None:
        """
        Args:
            path: The file, FILE.jsonl or FILE.csv; without a suffix it has JSON lines. Created if it does not exist.
            provenance: Provenance of the new answers; existing lines must have the same.
            overwrite: Start over if the file was begun with other settings.

        Raises:
            EdgeLlavaError: If the suffix is another one, or if the file cannot be written, is being written by another
                run, is not a caption file, or was begun with other settings; it is left unchanged.
        """
        self.path = path
        self._provenance = provenance
        self._format = _choose_format(path, provenance.kind)
        self._lines: dict[str, int] = {}  # sha256 -> offset of its first line
        # path -> digests of its last line: of the file that was captioned, and with the caption in its metadata
        self._held: dict[str, tuple[str, str | None]] = {}
        self._file = _open(path)
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
        """Closes the file, and removes it if this run created it and wrote nothing. Safe to call twice."""
        self._file.close(remove=self._file.is_new and not self._held)

    def names(self) -> frozenset[str]:
        """The paths of all images that have a line."""
        return frozenset(self._held)

    def has(self, name: str, sha256: str) -> bool:
        """Whether this image has a line for these bytes."""
        return sha256 in self._held.get(name, ())

    def written(self, name: str) -> str | None:
        """The digest of the file with the caption in its metadata; None if it was not written there."""
        return self._held.get(name, (None, None))[1]

    def knows(self, sha256: str) -> bool:
        """Whether an image with these bytes has a line."""
        return sha256 in self._lines

    def find(self, sha256: str) -> Caption:
        """The caption of an image with these bytes, which may be those after the caption was written into it.

        Raises:
            KeyError: If there is none.
            EdgeLlavaError: If the file can no longer be read.
        """
        offset = self._lines[sha256]
        try:
            record = self._format.decode(self._line_at(offset))
            if record is None:
                raise ValueError("a line is empty")
            caption = read_caption(record, self._provenance.kind)
        except (OSError, ValueError, KeyError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it was changed during the run ({error})"
            raise EdgeLlavaError(
                f"{self.path} cannot be read: {reason}. Once it can be read, run the same command again to resume."
            ) from error
        return caption if caption.sha256 == sha256 else replace(caption, sha256=sha256, written_sha256=None)

    def append(self, caption: Caption) -> None:
        """Appends a line.

        Raises:
            EdgeLlavaError: If the line cannot be written, for example because the disk is full. Earlier lines are kept.
        """
        try:
            if self._format.header and not self._held:
                self._format = _choose_format(self.path, self._provenance.kind)
                self._file.cut(0)  # a header without rows may be that of other answers
                self._file.append(self._format.header)
            offset = self._file.append(self._format.encode(self._provenance.to_record(caption)))
        except OSError as error:
            raise EdgeLlavaError(
                f"{self.path} cannot grow: {error.strerror}. Free some space, and run the same command again to resume."
            ) from error
        self._note(caption.path, caption.sha256, caption.written_sha256, offset)

    def _note(self, name: str, sha256: str, written_sha256: str | None, offset: int) -> None:
        self._lines.setdefault(sha256, offset)
        if written_sha256 is not None:
            self._lines.setdefault(written_sha256, offset)
        self._held[name] = (sha256, written_sha256)

    def _read(self, *, overwrite: bool) -> None:
        faults, differences, torn_at = list[str](), list[str](), None
        for number, offset, line, is_last in self._raw_lines():
            try:
                record = self._format.decode(line)
                if record is not None:
                    differences = differences or self._provenance.differences(record)
                    self._note(record["path"], record["sha256"], record.get("written_sha256"), offset)
            except ValueError as error:
                if is_last and self._format.is_torn(line):
                    torn_at = offset  # a partial line
                else:
                    faults.append(f"line {number}: {error}")
        self._refuse(faults, [] if overwrite else differences)
        if differences:
            self._lines, self._held, torn_at = {}, {}, 0
            self._format = _choose_format(self.path, self._provenance.kind)
        if torn_at is not None:
            self._file.cut(torn_at)
        self._file.end_last_line()  # a kill or an editor may have left a complete line without its line end

    def _raw_lines(self) -> Iterator[tuple[int, int, bytes, bool]]:
        """Yields the number, the offset and the bytes of every line, and whether it is the last one of the file."""
        size = self._file.size()
        parts, begun_at, first, is_open = list[bytes](), 0, 1, False
        for number, (offset, part) in enumerate(self._file.lines(), start=1):
            if not parts:
                begun_at, first = offset, number
            parts.append(part)
            is_open ^= not self._format.is_whole(part)
            is_last = offset + len(part) >= size
            if is_last or not is_open:
                yield first, begun_at, b"".join(parts), is_last
                parts, is_open = [], False

    def _line_at(self, offset: int) -> bytes:
        line = self._file.line_at(offset)
        while not self._format.is_whole(line) and (more := self._file.line_at(offset + len(line))):
            line += more
        return line

    def _refuse(self, faults: list[str], differences: list[str]) -> None:
        if faults:
            more = [f"and {len(faults) - _MAX_SHOWN} more"] * (len(faults) > _MAX_SHOWN)
            advice = "Repair these lines, or choose another output with -o."
            raise EdgeLlavaError(list_faults(f"{self.path} is not a caption file:", faults[:_MAX_SHOWN] + more, advice))
        if differences:
            advice = "Use those again, choose another output with -o, or replace it with --force."
            raise EdgeLlavaError(list_faults(f"{self.path} was begun with other settings:", differences, advice))


def _choose_format(path: Path, kind: str) -> JsonLines | CsvRows:
    suffix = path.suffix.lower()
    if suffix not in ("", *SUFFIXES):
        raise EdgeLlavaError(
            f"{path}: captions are written as JSON lines (FILE.jsonl) or CSV (FILE.csv), not as {suffix}. "
            "Choose another output with -o."
        )
    return CsvRows(kind) if suffix == ".csv" else JsonLines()


def _open(path: Path) -> LineFile:
    """Opens the file and turns system errors into errors for users."""
    try:
        return LineFile(path)
    except NotRegular as error:
        raise _unwritable(path, "it is not a regular file, so that no later run could resume it") from error
    except HeldElsewhere as error:
        raise EdgeLlavaError(
            f"{path} is being written by another run. Wait until it ends, or choose another output with -o."
        ) from error
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def _unwritable(path: Path, reason: str | None) -> EdgeLlavaError:
    return EdgeLlavaError(f"{path} cannot be written: {reason}. Choose another output with -o.")
