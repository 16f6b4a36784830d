"""Files are written whole or not at all, and identified by their sha256; lines survive a kill."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_llava.home.files import PARTIAL, atomic_file, digest_file, remove_abandoned, write_text
from edge_llava.home.line_file import LineFile


@pytest.mark.parametrize("older", [None, b"old"])
def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path, older: bytes | None) -> None:
    path = tmp_path / "x"
    if older is not None:
        path.write_bytes(older)
    with atomic_file(path) as file:
        file.write(b"new")
        (partial,) = (other for other in tmp_path.iterdir() if other != path)
        assert PARTIAL.fullmatch(partial.name)
        assert (path.read_bytes() if path.exists() else None) == older
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_an_exception_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "x") as file:
        file.write(b"new" * (1 // (file.write(b"new") - 3)))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    """A write of which the system accepts only a part, as with a full disk."""
    (tmp_path / "x").write_text("old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(OSError, match="File too large"), atomic_file(tmp_path / "x") as file:
            file.write(bytes(8000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_killed_process_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    script = """
import os, signal, sys
from pathlib import Path
from edge_llava.home.files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    assert result.returncode == -signal.SIGKILL
    assert (tmp_path / "x").read_text() == "old"
    (rest,) = (path for path in tmp_path.iterdir() if path.name != "x")
    remove_abandoned(tmp_path)
    assert rest.exists(), "it may be another process's, which is writing it"
    os.utime(rest, (time.time() - 7200,) * 2)
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_the_ordinary_ones_or_those_asked_for(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new" / "x", "ü")
        with atomic_file(tmp_path / "private", 0o600):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "x").stat().st_mode & 0o777 == mode
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new" / "x").read_bytes() == "ü".encode()


def test_a_name_as_long_as_can_be(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


def test_a_text_that_is_not_unicode_leaves_the_older_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "new \ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data, read = bytes(range(256)) * 40_000, list[int]()
    (tmp_path / "x").write_bytes(data)
    assert digest_file(tmp_path / "x", read.append) == hashlib.sha256(data).hexdigest()
    assert (sum(read), len(read)) == (len(data), 3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        digest_file(tmp_path / "pipe")


def test_lines_are_found_again(tmp_path: Path) -> None:
    lines = [b"first\n", b"x" * 10_000 + b"\n", b"\n"]
    with LineFile(tmp_path / "x") as file:
        assert file.is_new
        offsets = [file.append(line) for line in lines]
    with LineFile(tmp_path / "x") as file:
        assert not file.is_new
        assert list(file.lines()) == list(zip(offsets, lines, strict=True))
        assert [file.line_at(offset) for offset in reversed(offsets)] == lines[::-1]


@pytest.mark.parametrize("size", range(8))
def test_half_a_line_is_dropped_or_ended(tmp_path: Path, size: int) -> None:
    whole = b"ab\ncdef\n"[:size]
    n_whole = whole.rfind(b"\n") + 1
    for name in ("dropped", "ended"):
        (tmp_path / name).write_bytes(whole)
    with LineFile(tmp_path / "dropped") as file:
        file.drop_half_line()
        file.append(b"g\n")
    with LineFile(tmp_path / "ended") as file:
        file.end_last_line()
        file.append(b"g\n")
    assert (tmp_path / "dropped").read_bytes() == whole[:n_whole] + b"g\n"
    assert (tmp_path / "ended").read_bytes() == whole + b"\n" * (n_whole < size) + b"g\n"
