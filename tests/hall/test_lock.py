"""The one lock: held by a running process, free when its owner ends, whatever its process id was."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from edge_llava.home import lock
from edge_llava.home.lock import HeldElsewhere, NotRegular, hold, open_held

_HOLDER = """
import sys
from pathlib import Path
from edge_llava.home.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path / "x"` until it receives a line."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_seen_until_it_ends(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(HeldElsewhere, match="another process is writing it"), hold(tmp_path / "x"):
        pass
    holder.communicate("\n")
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "x"):
        assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "x.lock").exists()
    with hold(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("process", [os.getpid(), os.getppid(), 1], ids=["own", "parent", "init"])
def test_the_id_of_a_running_process_holds_nothing(tmp_path: Path, process: int) -> None:
    """As after a kill, when the id was reused by another process."""
    (tmp_path / "x.lock").write_text(str(process))
    with hold(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_thread_at_a_time(tmp_path: Path) -> None:
    found: list[type[BaseException] | None] = []

    def try_it() -> None:
        try:
            with hold(tmp_path / "x"):
                found.append(None)
        except HeldElsewhere:
            found.append(HeldElsewhere)

    with hold(tmp_path / "x"), hold(tmp_path / "y"):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    try_it()
    assert found == [HeldElsewhere, None]


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    """Each increments a number that only the holder may change; a lost or doubled increment would show."""
    script = """
import sys
from pathlib import Path
from edge_llava.home.lock import HeldElsewhere, hold
number, n_held = Path(sys.argv[1]), 0
while n_held < 100:
    try:
        with hold(number):
            seen = int(number.read_text())
            number.write_text(str(seen + 1))
            n_held += 1
    except HeldElsewhere:
        pass
"""
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", script, str(tmp_path / "number")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "300"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_file_that_disappears_while_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its owner removes it at that moment."""
    path, take, n_locked = tmp_path / "x", lock._lock, []

    def lock_late(file: FileIO) -> bool:
        if not n_locked:
            path.unlink()
        n_locked.append(file)
        return take(file)

    monkeypatch.setattr(lock, "_lock", lock_late)
    path.touch()
    file, is_new = open_held(path)
    with file:
        file.write(b"a")
    assert (len(n_locked), is_new, path.read_bytes()) == (2, True, b"a")


def test_another_file_in_its_place_stays(tmp_path: Path) -> None:
    with hold(tmp_path / "x"):
        (tmp_path / "x.lock").unlink()
        (tmp_path / "x.lock").write_text("another's")
    assert (tmp_path / "x.lock").read_text() == "another's"


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(NotRegular), hold(tmp_path / "x"):
        pass
    assert (tmp_path / "x.lock").is_dir()


def test_a_file_system_without_locks_lets_everyone_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*unused: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with hold(tmp_path / "x"), hold(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []
