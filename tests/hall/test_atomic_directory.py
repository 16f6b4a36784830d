"""Directories appear complete: what a kill leaves is repaired, what another process works on is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_llava.errors import BundleError
from edge_llava.home.atomic_directory import (
    MARKER,
    InTheWay,
    NotReplaced,
    atomic_directory,
    list_resumable,
    mend,
    mend_all,
    remove_directory,
    restore,
    resumable_directory,
)
from edge_llava.home.directories import bundles_directory, list_bundles, remove_bundle
from edge_llava.home.exchange import exchange
from edge_llava.home.lock import HeldElsewhere, hold

_WRITER = """
import sys
from pathlib import Path
from edge_llava.home.atomic_directory import atomic_directory
with atomic_directory(Path(sys.argv[1]), overwrite=True) as directory:
    (directory / "half").touch()
    print("begun", flush=True)
    sys.stdin.readline()
"""


def make(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text(name)
    return directory


def contents(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("older", [None, [], ["old"]])
def test_it_takes_its_place_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool, older: list[str] | None
) -> None:
    if not at_once:
        monkeypatch.setattr("edge_llava.home.atomic_directory.exchange", lambda first, second: False)
    if older is not None:
        make(tmp_path / "x", *older)
    before = contents(tmp_path)
    with atomic_directory(tmp_path / "x", overwrite=True) as directory:
        (directory / "new").touch()
        assert set(contents(tmp_path)) - set(before) == {"x.lock", "x.partial", f"x.partial/{MARKER}", "x.partial/new"}
    assert contents(tmp_path) == ["x", "x/new"]


@pytest.mark.parametrize("older", [None, ["old"]])
def test_an_exception_leaves_what_was_there(tmp_path: Path, older: list[str] | None) -> None:
    if older is not None:
        make(tmp_path / "x", *older)
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "x", overwrite=True) as directory:
        (make(directory / "deep", "half") / str(1 // 0)).touch()
    assert contents(tmp_path) == before


def test_what_appeared_in_its_place_is_not_replaced_unasked(tmp_path: Path) -> None:
    with pytest.raises(NotReplaced), atomic_directory(tmp_path / "x", overwrite=False):
        make(tmp_path / "x", "of another")
    assert contents(tmp_path) == ["x", "x/of another"]


def test_what_is_not_ours_is_in_the_way(tmp_path: Path) -> None:
    make(tmp_path / "x.partial", "diary")
    with (
        pytest.raises(InTheWay, match="edge-llava did not create it"),
        atomic_directory(tmp_path / "x", overwrite=True),
    ):
        pass
    mend(tmp_path / "x")
    assert contents(tmp_path) == ["x.partial", "x.partial/diary"]


def test_a_running_process_is_left_alone_and_a_killed_one_mended(tmp_path: Path) -> None:
    out = make(tmp_path / "x", "old")
    command = [sys.executable, "-c", _WRITER, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        running = contents(tmp_path)
        assert "x.partial/half" in running
        for change in (mend, remove_directory):
            with pytest.raises(HeldElsewhere):
                change(out)
        with pytest.raises(HeldElsewhere), atomic_directory(out, overwrite=True):
            pass
        assert contents(tmp_path) == running
        process.send_signal(signal.SIGKILL)
    assert contents(tmp_path) == running
    mend(out)
    assert contents(tmp_path) == ["x", "x/old"]


def test_the_older_one_is_put_back_unless_a_process_is_replacing_it(tmp_path: Path) -> None:
    """A kill between the two renames, where two directories cannot be exchanged."""
    out = tmp_path / "x"
    make(tmp_path / "x.old.partial", "old", MARKER)
    with hold(out):
        restore(out)
        assert contents(tmp_path) == ["x.lock", "x.old.partial", f"x.old.partial/{MARKER}", "x.old.partial/old"]
    restore(out)
    assert contents(tmp_path) == ["x", "x/old"]


def test_the_only_copy_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another program has a file of it open, on Windows."""
    make(tmp_path / "x.old.partial", "old", MARKER)

    def refuse(*unused: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "rename", refuse)
    mend(tmp_path / "x")
    with pytest.raises(PermissionError), atomic_directory(tmp_path / "x", overwrite=True):
        pass
    assert contents(tmp_path) == ["x.old.partial", f"x.old.partial/{MARKER}", "x.old.partial/old"]


def test_a_file_in_its_place_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("file")
    with pytest.raises(NotReplaced), atomic_directory(tmp_path / "x", overwrite=True):
        pass
    assert contents(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "file"


def test_a_place_that_cannot_be_written_does_not_fail_readers(tmp_path: Path) -> None:
    make(tmp_path / "x.old.partial", "old", MARKER)
    (tmp_path / "x.lock").mkdir()  # so that the lock cannot be had
    restore(tmp_path / "x")
    mend(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_root_has_no_leftovers() -> None:
    mend(Path("/"))
    restore(Path("/"))


def test_directories_exchange_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, name)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert contents(tmp_path) == ["a", "a/b", "b", "b/a"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


def test_a_bundle_whose_removal_was_killed_goes_with_the_next() -> None:
    home = bundles_directory()
    make(home / "a", "manifest.json")
    make(home / "b.partial", "language.gguf", MARKER)
    make(home / "c.partial", "diary")
    assert [path.name for path in list_bundles()] == ["a"]
    remove_bundle("a")
    assert contents(home) == ["c.partial", "c.partial/diary"], "what does not bear the marker is not ours"


def test_a_bundle_that_is_being_converted_is_not_removed() -> None:
    home = bundles_directory()
    make(home / "a", "manifest.json")
    with atomic_directory(home / "a", overwrite=True), pytest.raises(BundleError, match="another command is changing"):
        remove_bundle("a")
    shutil.rmtree(home / "a")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may delete everything")
def test_a_rest_that_cannot_be_deleted_is_named() -> None:
    home = bundles_directory()
    deep = make(make(home / "a", "manifest.json") / "licenses", "LICENSE")
    deep.chmod(0o500)
    with pytest.raises(BundleError, match=r"a\.partial cannot be deleted completely"):
        remove_bundle("a")
    (home / "a.partial" / "licenses").chmod(0o700)
    mend(home / "a")
    assert contents(home) == []


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("older", [None, ["old"]])
def test_what_was_begun_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool, older: list[str] | None
) -> None:
    if not at_once:
        monkeypatch.setattr("edge_llava.home.atomic_directory.exchange", lambda first, second: False)
    if older is not None:
        make(tmp_path / "x", *older)
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError), resumable_directory(tmp_path / "x", overwrite=True) as directory:
        (directory / "half").write_text(str((directory / "half").touch() or 1 // 0))
    mend_all(tmp_path)
    assert list_resumable(tmp_path) == [tmp_path / "x"]
    with hold(tmp_path / "x"):
        assert list_resumable(tmp_path) == []
    (tmp_path / "x.lock").touch()  # of a process that was killed
    assert list_resumable(tmp_path) == [tmp_path / "x"]
    assert contents(tmp_path) == sorted([*before, "x.download.partial", "x.download.partial/half"])
    with resumable_directory(tmp_path / "x", overwrite=True) as directory:
        assert contents(directory) == ["half"]
    assert contents(tmp_path) == ["x", "x/half"]


def test_an_older_one_that_a_kill_left_is_not_resumed(tmp_path: Path) -> None:
    """After the exchange, before it was deleted."""
    make(tmp_path / "x", "new")
    make(tmp_path / "x.download.partial", MARKER, "old")
    assert list_resumable(tmp_path) == []
    with resumable_directory(tmp_path / "x", overwrite=True) as directory:
        assert contents(directory) == []
        (directory / "newer").touch()
    assert contents(tmp_path) == ["x", "x/newer"]


def test_a_file_or_link_in_the_way_of_what_grows_stays(tmp_path: Path) -> None:
    make(tmp_path / "mine", "precious")
    (tmp_path / "x.download.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(InTheWay), resumable_directory(tmp_path / "x", overwrite=True):
        pass
    assert contents(tmp_path / "mine") == ["precious"]
