from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from edge_llava.captioning.folder import FileFault, common_folder, describe_unsupported, find_images
from edge_llava.errors import ImageError
from edge_llava.home.installation import install_command

NOWHERE = Path("no-output")


def names(directory, leave_out=NOWHERE):
    return find_images(directory, leave_out=leave_out).names


def fill(directory, *paths):
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(b"x")


def test_images_by_name_at_any_depth_sorted(tmp_path):
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


def test_links_never_leave_the_folder(tmp_path):
    fill(tmp_path, "outside/a.jpg", "outside/deep/b.jpg", "in/c.jpg", "in/trip/d.jpg", "inside-not/e.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "single.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    (tmp_path / "in" / "trip" / "up").symlink_to("../..")
    (tmp_path / "in" / "trip" / "neighbour").symlink_to(tmp_path / "inside-not")
    (tmp_path / "in" / "over").symlink_to("link")  # inside, and from there outside
    folder = find_images(tmp_path / "in", leave_out=NOWHERE)
    assert (folder.names, folder.n_links_out) == (["c.jpg", "trip/d.jpg"], 5)
    assert folder.faults == []


def test_links_within_the_folder_are_followed_once(tmp_path):
    fill(tmp_path, "a/b.jpg")
    (tmp_path / "c.jpg").symlink_to("a/b.jpg")
    (tmp_path / "again").symlink_to("a")
    (tmp_path / "root").symlink_to(".")
    folder = find_images(tmp_path, leave_out=NOWHERE)
    assert (folder.names, folder.n_links_out) == (["a/b.jpg", "c.jpg"], 0)


def test_links_to_what_is_passed_over_are_passed_over_too(tmp_path):
    fill(tmp_path, "a.jpg", ".hidden/b.jpg", "@eaDir/c.jpg", "#recycle/d.jpg")
    for number, target in enumerate((".hidden", "@eaDir", "#recycle", "#recycle/d.jpg", ".hidden/b.jpg")):
        (tmp_path / f"link{number}.jpg").symlink_to(target)
    assert names(tmp_path) == ["a.jpg"]


def test_a_folder_that_is_itself_a_link_is_walked_through(tmp_path):
    fill(tmp_path, "real/a.jpg", "real/b/c.jpg")
    (tmp_path / "real" / "again").symlink_to("b")
    (tmp_path / "photos").symlink_to("real")
    assert names(tmp_path / "photos") == ["a.jpg", "b/c.jpg"]


LEFTOVERS = [
    "@eaDir", "@tmp", "@Recently-Snapshot", "#recycle", "#snapshot", "#Recycle", "$RECYCLE.BIN", "$Recycle.Bin",
    "lost+found", "System Volume Information", "Thumbs", "__MACOSX", "~snapshot", "RECYCLED", "FOUND.000", "LOST.DIR",
    "Network Trash Folder", "Temporary Items", "Thumbs.db", "Thumbnails", "_vti_cnf", "Catalog Previews.lrdata",
    "Catalog.lrcat-data",
]  # fmt: skip


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_systems_leave_in_folders_is_passed_over(tmp_path, name):
    fill(tmp_path, "a.jpg", f"{name}/b.jpg", f"trip/{name}/c/d.jpg", "trip/e.jpg")
    folder = find_images(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg", "trip/e.jpg"]
    assert folder.passed_over == [name, f"trip/{name}"]


def test_names_that_only_look_like_leftovers_are_taken(tmp_path):
    fill(tmp_path, "@friend.jpg", "#1.jpg", "recycle/a.jpg", "thumbs.jpg", "lost/b.jpg", "found.2024/c.jpg")
    expected = ["#1.jpg", "@friend.jpg", "found.2024/c.jpg", "lost/b.jpg", "recycle/a.jpg", "thumbs.jpg"]
    assert names(tmp_path) == expected


def test_what_is_named_twice_in_different_ways_has_one_name(tmp_path):
    fill(tmp_path, "trip/a.jpg", "trip/day/b.jpg", "far/day/c.jpg")
    (tmp_path / "link").symlink_to("far/day")
    trip = tmp_path / "trip"
    folder = find_images(trip / "day" / "..", trip / "a.jpg", trip / "day" / ".." / "a.jpg", leave_out=NOWHERE)
    assert (folder.names, folder.directory) == (["a.jpg", "day/b.jpg"], trip)
    # ".." of a link is the directory above what it leads to
    assert find_images(tmp_path / "link" / "..", trip, leave_out=NOWHERE).names == [
        "far/day/c.jpg", "trip/a.jpg", "trip/day/b.jpg",
    ]  # fmt: skip


def test_a_named_folder_is_taken_whatever_its_name(tmp_path):
    fill(tmp_path, "@eaDir/a.jpg", ".hidden/b.jpg")
    assert names(tmp_path / "@eaDir") == ["a.jpg"]
    assert names(tmp_path / ".hidden") == ["b.jpg"]


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path):
    fill(tmp_path, "a.jpg", "b.JXL", "c/d.jxl", "e.dng", "f.CR2", "g.psd", "h.svg", "notes.txt", "film.mp4", ".x.dng")
    folder = find_images(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg"]
    assert folder.unsupported == {".jxl": 2, ".dng": 1, ".cr2": 1, ".psd": 1, ".svg": 1}
    said = describe_unsupported(folder.unsupported)
    assert said == "2 .jxl, 1 .cr2, 1 .dng, 1 .psd, 1 .svg. Convert them to JPEG or PNG."


def test_a_folder_of_nothing_else_says_so(tmp_path):
    fill(tmp_path, "a.dng", "b.jxl")
    with pytest.raises(ImageError, match=r"no image that can be read here, but 1 \.dng, 1 \.jxl\. Convert them"):
        names(tmp_path)


@pytest.mark.parametrize("suffix", [".mpo", ".MPO", ".jp2", ".tga", ".ppm", ".avif", ".jfif", ".tiff"])
def test_every_kind_that_is_read_is_found(tmp_path, suffix):
    fill(tmp_path, f"a{suffix}")
    assert names(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("installed", [True, False])
def test_heic_is_taken_where_its_package_is_installed(tmp_path, installed, monkeypatch):
    module = types.ModuleType("pillow_heif") if installed else None
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    fill(tmp_path, "a.jpg", "damaged.heic")
    (tmp_path / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "renamed.heic").write_bytes(b"\xff\xd8\xff\xe0")  # JPEG, as some programs leave it
    folder = find_images(tmp_path, leave_out=NOWHERE)
    if installed:
        assert (folder.names, folder.unsupported) == (["a.jpg", "b.HEIC", "damaged.heic", "renamed.heic"], {})
    else:
        assert (folder.names, folder.unsupported) == (["a.jpg", "renamed.heic"], {".heic": 2})
        assert describe_unsupported(folder.unsupported) == f"2 .heic. For HEIC: {install_command('heic')}."


def test_files_are_taken_whatever_their_names(tmp_path):
    fill(tmp_path, "IMG_1", "b.jpg", "c.jpg", ".d.jpg")
    folder = find_images(tmp_path / "IMG_1", tmp_path / ".d.jpg", tmp_path / "b.jpg", leave_out=NOWHERE)
    assert (folder.directory, folder.names) == (tmp_path, [".d.jpg", "IMG_1", "b.jpg"])


def test_several_folders_and_files(tmp_path):
    fill(tmp_path, "one/a.jpg", "two/a.jpg", "two/deep/b.jpg", "c.jpg", "other.jpg", "one/s.jxl")
    (tmp_path / "one" / "link").symlink_to("../two")  # leads to what was named, too
    folder = find_images(tmp_path / "one", tmp_path / "two", tmp_path / "c.jpg", leave_out=NOWHERE)
    assert folder.directory == tmp_path
    assert folder.names == ["c.jpg", "one/a.jpg", "two/a.jpg", "two/deep/b.jpg"]
    assert (folder.unsupported, folder.n_links_out) == ({".jxl": 1}, 0)


def test_what_is_named_twice_is_taken_once(tmp_path):
    fill(tmp_path, "a.jpg", "in/b.jpg")
    folder = find_images(tmp_path, tmp_path / "in", tmp_path / "a.jpg", tmp_path / "a.jpg", leave_out=NOWHERE)
    assert (folder.directory, folder.names) == (tmp_path, ["a.jpg", "in/b.jpg"])


def test_names_are_relative_to_the_innermost_common_folder(tmp_path, monkeypatch):
    fill(tmp_path, "x/one/a.jpg", "x/two/b.jpg")
    monkeypatch.chdir(tmp_path / "x")
    folder = find_images(Path("one/a.jpg"), Path("../x/two"), leave_out=NOWHERE)
    assert (folder.directory, folder.names) == (tmp_path / "x", ["one/a.jpg", "two/b.jpg"])
    assert all(folder.path(name).is_file() for name in folder.names)
    assert common_folder((Path("one"),)) == Path("one")
    assert common_folder((Path("one/a.jpg"),)) == Path("one")
    assert common_folder((Path("one/a.jpg"), Path("one"))) == Path("one")


def test_a_named_file_that_is_not_a_file_is_a_fault(tmp_path):
    fill(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    folder = find_images(tmp_path / "a.jpg", tmp_path / "pipe", leave_out=NOWHERE)
    assert (folder.names, folder.faults) == (["a.jpg"], [FileFault("pipe", "it is not a regular file")])


def test_image_names_that_are_not_files_are_faults(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "me.png").symlink_to("me.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.jpg").mkdir()
    folder = find_images(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg"]
    assert [fault.path for fault in folder.faults] == ["gone.jpg", "me.png", "pipe.png"]
    assert folder.faults[0].reason == "it is a broken link: No such file or directory"
    assert folder.faults[2] == FileFault("pipe.png", "it is not a regular file")


def test_a_directory_that_cannot_be_listed_is_a_fault_and_the_rest_is_found(tmp_path):
    """So deep that its path is too long for the system: not even root can list it."""
    fill(tmp_path, "a.jpg", "z/b.jpg")
    place, name = os.open(tmp_path, os.O_RDONLY), "d" * 200
    for _ in range(24):
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    folder = find_images(tmp_path, leave_out=NOWHERE)
    assert folder.names == ["a.jpg", "z/b.jpg"]
    (fault,) = folder.faults
    assert set(fault.path.split("/")) == {name}
    assert fault.reason == "it cannot be listed: File name too long"


def test_a_file_that_cannot_be_looked_at_is_not_told_to_be_a_link(tmp_path):
    """Its path is too long for the system, but that of its directory is not: not even root can read it."""
    fill(tmp_path, "a.jpg")
    place, length, name = os.open(tmp_path, os.O_RDONLY), len(os.fsencode(tmp_path)), "d" * 100
    while length + 1 + len(name) < 4_000:
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place, length = inner, length + 1 + len(name)
    os.close(os.open("p" * 246 + ".jpg", os.O_CREAT, dir_fd=place))
    os.close(place)
    folder = find_images(tmp_path, leave_out=NOWHERE)
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


def test_the_output_is_left_out_whatever_its_name(tmp_path):
    fill(tmp_path, "a.jpg", "captions.png")
    (tmp_path / "link.png").symlink_to("captions.png")
    assert names(tmp_path, tmp_path / "captions.png") == ["a.jpg"]


def test_a_folder_without_images_is_refused(tmp_path):
    fill(tmp_path, "notes.txt")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    with pytest.raises(ImageError, match=r"contains no images \(\.jpg .*gone\.jpg: it is a broken link"):
        names(tmp_path)


def test_names_that_are_no_text(tmp_path):
    fill(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    assert names(tmp_path) == ["caf\udce9.jpg"]
