from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
import time

import pytest

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.kv import disk_cache as prefix_store
from edge_llava.runtime.kv.disk_cache import MAX_BYTES, PrefixStore
from edge_llava.runtime.lifetime.cancel import Cancelled

NEVER = threading.Event()
KEYS = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(8)]


@pytest.fixture
def store(tmp_path):
    return PrefixStore(tmp_path / "home" / "cache")


def state(n_bytes, seed=0):
    return bytearray(hashlib.shake_256(str(seed).encode()).digest(n_bytes))


def use(store, key, age_s):
    """Makes an entry look as if it was last used so long ago."""
    then = time.time() - age_s
    os.utime(store.directory / f"{key}.kv", (then, then))


def names(store):
    return [file.path.stem for file in store.files()]


def test_limit_is_two_gigabytes(store):
    assert store.max_bytes == MAX_BYTES == 2_000_000_000


def test_bytes_of_an_entry(store):
    """So that a stranger can write a reader."""
    data = state(1000)
    store.save(KEYS[0], data, NEVER)
    assert (store.directory / f"{KEYS[0]}.kv").read_bytes() == (
        b"edge-llava kv\0\0\0"
        + struct.pack("<Q", 1)
        + bytes.fromhex(KEYS[0])
        + struct.pack("<Q", 1000)
        + hashlib.sha256(data).digest()
        + data
    )
    assert store.load(KEYS[0], NEVER) == data


@pytest.mark.parametrize("n_bytes", [0, 1, 4096, 10_000])
def test_round_trip_in_chunks(store, monkeypatch, n_bytes):
    monkeypatch.setattr(prefix_store, "_CHUNK_BYTES", 4096)
    store.save(KEYS[0], state(n_bytes), NEVER)
    assert store.load(KEYS[0], NEVER) == state(n_bytes)


def test_nothing_there(store):
    assert store.load(KEYS[0], NEVER) is None
    assert (store.has(KEYS[0]), store.touch(KEYS[0]), store.files(), store.clear()) == (False, False, [], 0)
    assert not store.directory.exists()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_the_user_may_read(store):
    before = os.umask(0)
    try:
        store.save(KEYS[0], state(100), NEVER)
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    (file,) = store.files()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_the_least_recently_used_goes_first(tmp_path):
    store = PrefixStore(tmp_path, max_bytes=3 * (96 + 1000))
    for n in range(3):
        store.save(KEYS[n], state(1000, n), NEVER)
        use(store, KEYS[n], 100 - n)
    assert names(store) == KEYS[:3]
    store.save(KEYS[3], state(1000), NEVER)
    assert names(store) == [KEYS[1], KEYS[2], KEYS[3]]
    assert store.load(KEYS[1], NEVER) == state(1000, 1)  # now it is the most recent
    store.save(KEYS[4], state(500), NEVER)
    assert set(names(store)) == {KEYS[1], KEYS[3], KEYS[4]}
    use(store, KEYS[3], 50)
    use(store, KEYS[4], 60)
    assert store.touch(KEYS[4])
    store.save(KEYS[5], state(1000), NEVER)
    assert set(names(store)) == {KEYS[1], KEYS[4], KEYS[5]}
    assert sum(file.n_bytes for file in store.files()) <= store.max_bytes


def test_what_exceeds_the_limit_alone_is_not_kept(tmp_path):
    store = PrefixStore(tmp_path, max_bytes=1000)
    store.save(KEYS[0], state(904), NEVER)
    store.save(KEYS[1], state(905), NEVER)
    assert names(store) == [KEYS[0]]


def test_other_files_are_left_alone(tmp_path):
    """EDGE_LLAVA_HOME may be a directory that has a `cache` of its own."""
    store = PrefixStore(tmp_path, max_bytes=2 * (96 + 100))
    strangers = ["notes.kv", "x.partial", f"{KEYS[0]}.txt", f"{KEYS[0].upper()}.kv"]
    for name in strangers:
        (tmp_path / name).write_bytes(bytes(5000))
    for n in range(3):
        store.save(KEYS[n], state(100), NEVER)
    assert len(store.files()) == 2
    assert store.clear() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(strangers)


def test_abandoned_parts_are_swept(store):
    store.save(KEYS[0], state(100), NEVER)
    old, new = (store.directory / f"{digit * 16}.partial" for digit in "01")
    for path in (old, new):
        path.write_bytes(bytes(10))
    os.utime(old, (time.time() - 7200,) * 2)
    store.save(KEYS[2], state(100), NEVER)
    assert (old.exists(), new.exists()) == (False, True)
    assert store.clear() == 2
    assert not list(store.directory.iterdir())


@pytest.mark.parametrize("n_looks", [1, 2, 5])
def test_cancelled_save_leaves_nothing(store, monkeypatch, n_looks):
    monkeypatch.setattr(prefix_store, "_CHUNK_BYTES", 1000)

    class Later(threading.Event):
        left = n_looks

        def is_set(self):
            self.left -= 1
            return self.left <= 0

    with pytest.raises(Cancelled):
        store.save(KEYS[0], state(3000), Later())
    assert not list(store.directory.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="the limit is POSIX's")
def test_a_full_disk_is_a_warning(store, caplog):
    """A write that the system takes only a part of, as a full disk does."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        store.save(KEYS[0], state(10_000), NEVER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot be kept: File too large" in caplog.text
    assert not list(store.directory.iterdir())
    store.save(KEYS[0], state(10_000), NEVER)
    assert store.load(KEYS[0], NEVER) == state(10_000)


def test_a_home_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    store = PrefixStore(tmp_path / "file" / "cache")
    store.save(KEYS[0], state(10), NEVER)
    assert "cannot be kept" in caplog.text
    assert store.load(KEYS[0], NEVER) is None
    assert store.files() == []


def test_an_entry_that_is_a_directory_is_a_warning(store, caplog):
    store.save(KEYS[0], state(10), NEVER)
    (store.directory / f"{KEYS[1]}.kv").mkdir()
    assert not store.has(KEYS[1])
    assert store.load(KEYS[1], NEVER) is None
    store.save(KEYS[1], state(10), NEVER)
    assert caplog.text.count("cannot be read") == caplog.text.count("cannot be kept") == 1
    with pytest.raises(EdgeLlavaError, match="cannot be removed"):
        store.clear()


def test_entries_that_vanish_are_no_error(store, monkeypatch):
    """Another process made room between the look and the use."""
    for n in range(2):
        store.save(KEYS[n], state(100), NEVER)
    stat_of = os.stat
    gone = store.directory / f"{KEYS[0]}.kv"

    def vanish(path, **options):
        if str(path) == str(gone):
            raise FileNotFoundError(errno.ENOENT, "gone", str(path))
        return stat_of(path, **options)

    monkeypatch.setattr(os, "stat", vanish)
    assert names(store) == [KEYS[1]]
    gone.unlink()
    assert store.load(KEYS[0], NEVER) is None
    store.remove(KEYS[0])


_WRITER = """
import sys, threading
from pathlib import Path
from edge_llava.runtime.kv.disk_cache import PrefixStore
import hashlib
keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(8)]
store, never, seen = PrefixStore(Path(sys.argv[1]), max_bytes=4 * (96 + 50_000)), threading.Event(), 0
print("ready", flush=True)
sys.stdin.readline()
for turn in range(60):
    n = (turn * int(sys.argv[2])) % 8
    store.save(keys[n], bytearray([n]) * 50_000, never)
    for n in range(8):
        found = store.load(keys[n], never)
        assert found is None or found == bytearray([n]) * 50_000, n
        seen += found is not None
print(seen)
"""


def test_two_processes_share_the_directory(tmp_path):
    """What either finds is whole, and nobody warns."""
    script = "import logging; logging.basicConfig(level=logging.WARNING)\n" + _WRITER
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, step], **pipes) for step in ("3", "5")]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    results = []
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=60)
        results.append((process.returncode, int(out) > 60, err))
    assert results == [(0, True, "")] * 2
    assert not list(tmp_path.glob("*.partial"))
    assert len(list(tmp_path.glob("*.kv"))) <= 5
