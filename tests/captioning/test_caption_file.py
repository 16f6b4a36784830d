from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import pytest

from edge_llava.captioning.caption import Caption
from edge_llava.captioning.caption_file import CaptionFile
from edge_llava.errors import EdgeLlavaError


def caption(name, text="An image."):
    return Caption(name, name[0] * 64, text, "stop", 3, 0.25)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "captions.jsonl"


@pytest.fixture
def opened(out, provenance):
    """opened(overwrite=False, **changes of the provenance) -> CaptionFile."""

    def open_file(*, overwrite=False, **changes):
        return CaptionFile(out, dataclasses.replace(provenance, **changes), overwrite=overwrite)

    return open_file


def fill(opened, *names):
    with opened() as file:
        for name in names:
            file.append(caption(name))


def test_a_line_is_what_the_readme_says(out, opened):
    with opened() as file:
        file.append(caption("a.jpg", "Zwölf 😀"))
        assert out.read_bytes().count(b"\n") == 1  # written at once
        file.append(caption("a.jpg").for_duplicate("b/copy.jpg"))
    first, second = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    assert first == {
        "path": "a.jpg",
        "sha256": "a" * 64,
        "caption": "Zwölf 😀",
        "finish_reason": "stop",
        "n_tokens": 3,
        "seconds": 0.25,
        "model": "bundle",
        "prompt": "What?",
        "settings": "0123456789abcdef",
    }
    assert (second["path"], second["duplicate_of"], second["seconds"]) == ("b/copy.jpg", "a.jpg", 0.0)
    assert "Zwölf" in out.read_text(encoding="utf-8")


def test_what_was_written_is_found_again(opened):
    fill(opened, "a.jpg", "b.jpg")
    with opened() as file:
        assert file.names() == {"a.jpg", "b.jpg"}
        assert file.has("a.jpg", "a" * 64)
        assert not file.has("a.jpg", "b" * 64)
        assert (file.knows("b" * 64), file.knows("c" * 64)) == (True, False)
        assert file.find("b" * 64) == caption("b.jpg")
        file.append(caption("c.jpg", "x" * 10_000))  # longer than what is read at once
        assert file.find("c" * 64).answer == "x" * 10_000
        assert file.find("a" * 64) == caption("a.jpg")


def test_the_later_line_of_a_changed_image_counts(opened):
    with opened() as file:
        file.append(caption("a.jpg"))
        file.append(dataclasses.replace(caption("a.jpg"), sha256="e" * 64))
    with opened() as file:
        assert file.has("a.jpg", "e" * 64)
        assert not file.has("a.jpg", "a" * 64)


def test_half_a_line_is_dropped_wherever_it_was_cut(out, opened):
    fill(opened, "a.jpg", "b.jpg")
    whole = out.read_bytes()
    n_first = whole.index(b"\n") + 1
    for n in range(n_first + 1, len(whole) - 1):
        out.write_bytes(whole[:n])
        with opened() as file:
            assert file.names() == {"a.jpg"}, whole[:n]
            file.append(caption("b.jpg"))
        assert out.read_bytes() == whole


def test_half_of_the_first_line_is_dropped(out, opened):
    fill(opened, "a.jpg")
    whole = out.read_bytes()
    out.write_bytes(whole[:40])
    with opened() as file:
        assert file.names() == set()
    assert out.read_bytes() == b""


def test_a_line_that_only_lacks_its_end_is_kept(out, opened):
    fill(opened, "a.jpg", "b.jpg")
    whole = out.read_bytes()
    out.write_bytes(whole[:-1])
    with opened() as file:
        assert file.names() == {"a.jpg", "b.jpg"}
        file.append(caption("c.jpg"))
    assert out.read_bytes().startswith(whole)
    assert out.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xd8\xff\xe0 a photograph", "line 1"),
        (b"some notes\nof mine\n", "line 1"),
        (b"some notes", "line 1"),
        (b'{"path": "a"}\n', "contains no caption"),
        (b'{"path": "a", "caption": "x"}\n', "lacks a field"),
        (b"[1]\n", "contains no caption"),
        (b"[" * 10_000 + b"\n", "nested too deeply"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_alone(out, opened, content, says, overwrite):
    out.write_bytes(content)
    with pytest.raises(EdgeLlavaError, match=rf"(?s)captions\.jsonl is not a caption file:.*{says}.*-o"):
        opened(overwrite=overwrite)
    assert out.read_bytes() == content


def test_a_damaged_line_in_the_middle_is_refused(out, opened):
    fill(opened, "a.jpg", "b.jpg", "c.jpg")
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    with pytest.raises(EdgeLlavaError, match="line 2: "):
        opened()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": "Why?"}, "prompt: 'What?' then, 'Why?' now"),
        ({"model": "other"}, "model: 'bundle' then, 'other' now"),
        ({"kind": "json"}, "answers: text then, json now"),
        ({}, "the bundle's files, the sampling, the schema, the visual tokens or --alpha differ"),
    ],
)
def test_other_settings_are_never_mixed(out, opened, changes, says):
    fill(opened, "a.jpg")
    before = out.read_bytes()
    with pytest.raises(EdgeLlavaError, match=rf"(?s)begun with other settings:.*{re.escape(says)}.*--force"):
        opened(settings="f" * 16, **changes)
    assert out.read_bytes() == before
    with opened(settings="f" * 16, overwrite=True, **changes) as file:
        assert file.names() == set()
        assert out.read_bytes() == b""
        file.append(caption("b.jpg"))
    with opened(settings="f" * 16, overwrite=True, **changes) as file:
        assert file.names() == {"b.jpg"}  # of the same settings: kept


def test_a_renamed_bundle_is_the_same_bundle(opened):
    fill(opened, "a.jpg")
    with opened(model="renamed") as file:
        assert file.names() == {"a.jpg"}


def test_undecodable_paths_survive(out, opened):
    name = os.fsdecode(b"caf\xe9.jpg")
    with opened() as file:
        file.append(caption(name))
    out.read_text(encoding="utf-8")
    with opened() as file:
        assert file.names() == {name}


def test_nothing_is_left_where_nothing_was_written(out, opened):
    with opened():
        assert out.exists()
    assert not out.exists()


@pytest.mark.parametrize("name", ["x.json", "x.CSV2", "x.txt", "x.parquet"])
def test_a_suffix_of_another_format_is_refused(tmp_path, provenance, name):
    with pytest.raises(EdgeLlavaError, match=rf"{name}: captions are written as JSON lines \(FILE\.jsonl\) or CSV"):
        CaptionFile(tmp_path / name, provenance, overwrite=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "start"), [("X.JSONL", b"{"), ("lines", b"{"), ("x.Csv", b"path,")])
def test_the_suffix_decides_the_format(tmp_path, provenance, name, start):
    with CaptionFile(tmp_path / name, provenance, overwrite=False) as file:
        file.append(caption("a.jpg"))
    assert (tmp_path / name).read_bytes().startswith(start)


def test_places_that_cannot_be_written(tmp_path, provenance):
    for path in (tmp_path, tmp_path / "none" / "x.jsonl"):
        with pytest.raises(EdgeLlavaError, match=r"cannot be written: .*-o"):
            CaptionFile(path, provenance, overwrite=False)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_lines_that_was_there_stays(out, opened, content):
    out.write_bytes(content)
    with opened():
        pass
    assert out.read_bytes() == content


def test_a_file_that_took_the_place_of_the_output_stays(out, opened):
    with opened():
        out.unlink()
        out.write_text("of another program")
    assert out.read_text() == "of another program"


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path, provenance):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reading, writing = os.pipe()
    for path in (tmp_path / "pipe", tmp_path / "link", Path(f"/dev/fd/{writing}"), Path(os.devnull), tmp_path):
        with pytest.raises(EdgeLlavaError, match=r"cannot be written: it is not a regular file, .*-o"):
            CaptionFile(path, provenance, overwrite=True)
    os.close(reading)
    os.close(writing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_one_run_at_a_time(tmp_path, out, opened, provenance, overwrite):
    (tmp_path / "link.jsonl").symlink_to(out)
    with opened() as file:
        for path in (out, tmp_path / "link.jsonl"):
            with pytest.raises(EdgeLlavaError, match=r"is being written by another run\. Wait .*-o"):
                CaptionFile(path, provenance, overwrite=overwrite)
        file.append(caption("a.jpg"))
    with opened() as file:
        assert file.names() == {"a.jpg"}


def test_a_file_system_without_locks(out, opened, monkeypatch):
    def refuse(*unused):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    fill(opened, "a.jpg")
    assert out.read_bytes().count(b"\n") == 1


def test_a_file_that_is_whole_is_not_cut(out, opened, provenance):
    """Without file locks, a line that another run wrote after this one had read the file stays."""
    fill(opened, "a.jpg")
    before = out.stat().st_mtime_ns
    os.utime(out, ns=(before - 10**9, before - 10**9))
    with opened():
        assert out.stat().st_mtime_ns == before - 10**9


def test_an_output_that_can_no_longer_be_read_is_reported(out, opened):
    fill(opened, "a.jpg", "b.jpg")
    with opened() as file:
        out.write_bytes(b"x" * len(out.read_bytes()))
        with pytest.raises(EdgeLlavaError, match=r"cannot be read: it was changed during the run"):
            file.find("a" * 64)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(tmp_path, out, opened, provenance, monkeypatch):
    fill(opened, "a.jpg")
    with opened() as file, open("/dev/full", "ab+", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(file._file, "_file", full)
        with pytest.raises(EdgeLlavaError, match="cannot grow: No space left on device"):
            file.append(caption("b.jpg"))
        assert not file.has("b.jpg", "b" * 64)
        patch.undo()
