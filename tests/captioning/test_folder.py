from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edge_llava.captioning.folder import Fault, digest_file, find_pictures
from edge_llava.errors import ImageError

NOWHERE = Path("no-output")


def names(directory, leave_out=NOWHERE):
    return find_pictures(directory, leave_out=leave_out).names


def fill(directory, *paths):
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(b"x")


def test_pictures_by_name_at_any_depth_sorted(tmp_path):
    fill(
        tmp_path, "b.JPG", "a/z.jpeg", "a/y.Tiff", "a/notes.txt", "a/b/c/d.webp", "noname", "film.mp4", "p.heic", "jpg"
    )
    assert names(tmp_path) == ["a/b/c/d.webp", "a/y.Tiff", "a/z.jpeg", "b.JPG", "p.heic"]


def test_hidden_names_are_passed_over(tmp_path):
    fill(tmp_path, "a.jpg", "._a.jpg", ".thumbnails/a.jpg", "sub/.trash/b.png")
    assert names(tmp_path) == ["a.jpg"]


def test_loops_and_second_ways_to_a_directory(tmp_path):
    fill(tmp_path, "z/real/a.jpg", "other.jpg")
    (tmp_path / "z" / "up").symlink_to(tmp_path)
    (tmp_path / "z" / "real" / "self").symlink_to(".")
    (tmp_path / "a-link").symlink_to("z/real")  # sorts first, but is not its own name
    assert names(tmp_path) == ["other.jpg", "z/real/a.jpg"]


def test_links_to_the_outside_are_followed(tmp_path):
    fill(tmp_path, "outside/a.jpg", "outside/deep/b.jpg", "in/c.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "single.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    assert names(tmp_path / "in") == ["c.jpg", "link/a.jpg", "link/deep/b.jpg", "single.jpg"]


def test_names_of_pictures_that_are_no_files_are_faults(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "me.png").symlink_to("me.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.jpg").mkdir()
    folder = find_pictures(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg"]
    assert [fault.path for fault in folder.faults] == ["gone.jpg", "me.png", "pipe.png"]
    assert folder.faults[0].reason == "it is a link that leads nowhere: No such file or directory"
    assert folder.faults[2] == Fault("pipe.png", "it is no ordinary file")


def test_a_directory_that_cannot_be_listed_is_a_fault_and_the_rest_is_found(tmp_path):
    """So deep that its path is too long for the system: nobody can list it, not even root."""
    fill(tmp_path, "a.jpg", "z/b.jpg")
    place, name = os.open(tmp_path, os.O_RDONLY), "d" * 200
    for _ in range(24):
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    folder = find_pictures(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg", "z/b.jpg"]
    (fault,) = folder.faults
    assert set(fault.path.split("/")) == {name}
    assert fault.reason == "it cannot be listed: File name too long"


def test_a_file_that_cannot_be_looked_at_is_not_told_to_be_a_link(tmp_path):
    """Its path is too long for the system, and that of its directory is not: nobody can read it, not even root."""
    fill(tmp_path, "a.jpg")
    place, length, name = os.open(tmp_path, os.O_RDONLY), len(os.fsencode(tmp_path)), "d" * 100
    while length + 1 + len(name) < 4_000:
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place, length = inner, length + 1 + len(name)
    os.close(os.open("p" * 246 + ".jpg", os.O_CREAT, dir_fd=place))
    os.close(place)
    folder = find_pictures(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg"]
    assert [fault.reason for fault in folder.faults] == ["it cannot be read: File name too long"]


def test_a_file_system_that_numbers_every_file_0(tmp_path, monkeypatch):
    fill(tmp_path, "a.jpg", "b/c.jpg", "d/e.jpg")
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to("b")
    real_stat = os.stat

    def stat_without_numbers(path, **how):
        fields = list(real_stat(path, **how))
        return os.stat_result([fields[0], 0, *fields[2:]])

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat_without_numbers)
        found = names(tmp_path)
    assert found == ["a.jpg", "b/c.jpg", "d/e.jpg"]


def test_the_output_is_no_picture_whatever_its_name(tmp_path):
    fill(tmp_path, "a.jpg", "captions.png")
    (tmp_path / "link.png").symlink_to("captions.png")
    assert names(tmp_path, tmp_path / "captions.png") == ["a.jpg"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    fill(tmp_path, "notes.txt")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    with pytest.raises(ImageError, match=r"holds no pictures \(\.jpg .*gone\.jpg: it is a link that leads nowhere"):
        names(tmp_path)


def test_names_that_are_no_text(tmp_path):
    fill(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    assert names(tmp_path) == ["caf\udce9.jpg"]


def test_digest_is_of_the_bytes(tmp_path):
    data = os.urandom((1 << 20) + 7)
    (tmp_path / "a").write_bytes(data)
    assert digest_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
