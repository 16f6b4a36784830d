from __future__ import annotations

import io
import json
import stat
import sys

import pytest

pytestmark = pytest.mark.convert


@pytest.fixture
def chat(run, seeded_q4, photo):
    """chat(*options) -> the object that `chat --json` prints."""

    def ask(*options):
        result = run("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 4, "--temp", 0, "-t", 1, "--json", *options)
        assert result.code == 0, result.err
        return json.loads(result.out)

    return ask


def info(run):
    return json.loads(run("cache", "info", "--json").out)


def test_a_second_process_begins_after_the_image(run, chat, home):
    first, second = chat(), chat()
    assert second["tokens"] == first["tokens"]
    assert second["images"] == first["images"]
    assert first["timings"]["vision_s"] > 0
    assert first["timings"]["cached_tokens"] == 0
    assert second["timings"]["vision_s"] == 0
    assert second["timings"]["cached_tokens"] > 64
    (path,) = (home / "cache").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert info(run) == {
        "home": str(home),
        "directory": str(home / "cache"),
        "entries": 1,
        "bytes": path.stat().st_size,
        "max_bytes": 2_000_000_000,
    }
    shown = run("cache", "info").out.splitlines()
    assert shown[0] == str(home / "cache")
    assert shown[1].startswith("1 entry, ")
    assert shown[1].endswith(" of at most 2.0 GB")


def test_no_cache_keeps_nothing_and_uses_nothing(run, chat, home, monkeypatch):
    chat("--no-cache")
    assert not (home / "cache").exists()
    chat()
    assert chat("--no-cache")["timings"]["cached_tokens"] == 0
    monkeypatch.setenv("EDGE_LLAVA_NO_CACHE", "1")
    assert chat()["timings"]["cached_tokens"] == 0


def test_empty(run, home):
    assert info(run)["entries"] == 0
    result = run("cache", "clear")
    assert (result.code, result.out, result.err) == (0, "", "deleted 0 entries\n")
    assert not (home / "cache").exists()


def test_clear_asks(run, chat, home, monkeypatch):
    chat()
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        result = run("cache", "clear")
        assert result.out == ""
        assert "Delete 1 entry" in result.err
        assert info(run)["entries"] == 1
    result = run("cache", "clear", "--yes")
    assert (result.code, result.out, result.err) == (0, "", "deleted 1 entry\n")
    assert list((home / "cache").iterdir()) == []
    assert chat()["timings"]["cached_tokens"] == 0


def test_cache_commands_load_no_engine(run):
    import subprocess

    script = (
        "import sys\nfrom edge_llava.cli import main\n"
        "try: main(['cache', 'info'])\nexcept SystemExit as error: assert not error.code\n"
        "bad = {'llama_cpp', 'onnxruntime', 'numpy', 'torch'} & set(sys.modules)\nassert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
