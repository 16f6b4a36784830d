from __future__ import annotations

import json
import os

import pytest

from edge_llava.captioning.sidecar import Sidecars
from edge_llava.errors import EdgeLlavaError

NAMES = ["a.jpg", "b/a.png", "b/a.jpg", "c.tar.jpg"]


@pytest.fixture
def sidecars(tmp_path):
    """sidecars(suffix=".txt", overwrite=False) -> Sidecars of the images NAMES in tmp_path."""
    (tmp_path / "b").mkdir()
    return lambda suffix=".txt", overwrite=False: Sidecars(
        tmp_path, NAMES, tmp_path / "captions.jsonl", suffix=suffix, overwrite=overwrite
    )


def written(directory, names, out="captions.jsonl"):
    """The sidecar files by image; existing files may be replaced."""
    files = Sidecars(directory, names, directory / out, suffix=".txt", overwrite=True)
    for name in names:
        files.write(name, f"About {name}.")
    texts = {path: path.read_text() for path in directory.rglob("*.txt") if not path.is_symlink()}
    return {name: path.name for name in names for path, text in texts.items() if text == f"About {name}.\n"}


def test_each_image_has_its_own_sidecar(tmp_path, sidecars):
    files = sidecars()
    for name in NAMES:
        files.write(name, f"About {name}. ä")
    found = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.*")}
    assert found == {
        "a.txt": "About a.jpg. ä\n",
        "b/a.png.txt": "About b/a.png. ä\n",
        "b/a.jpg.txt": "About b/a.jpg. ä\n",
        "c.tar.txt": "About c.tar.jpg. ä\n",
    }
    assert (files.n_written, files.n_kept) == (4, 0)


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.txt", "a.png.txt", "a.jpg.png.txt"]),
        (["a.jpg", "a.jpg.png"], ["a.txt", "a.jpg.png.txt"]),
        (["a.jpg", "a.jpg.png", "a.jpg.png.gif"], ["a.txt", "a.jpg.png.txt", "a.jpg.png.gif.txt"]),
        (["S.jpg", "s.png"], ["S.jpg.txt", "s.png.txt"]),  # one file on a case-insensitive file system
        (["e\u0301.jpg", "\xe9.png"], ["e\u0301.jpg.txt", "\xe9.png.txt"]),
        (["a.JPG.png", "a.jpg", "A.gif"], ["a.JPG.png.txt", "a.jpg.txt", "A.gif.txt"]),
    ],
)
def test_no_two_images_share_a_sidecar(tmp_path, names, targets):
    assert written(tmp_path, names) == dict(zip(names, targets, strict=True))
    assert len(list(tmp_path.iterdir())) == len({target.casefold() for target in targets}) == len(names)


@pytest.mark.parametrize("out", ["a.txt", "A.TXT", "sub/../a.txt", "link.jsonl", "via/a.txt"])
def test_the_output_is_never_a_sidecar(tmp_path, out):
    (tmp_path / "sub").mkdir()
    (tmp_path / "via").symlink_to(".")
    (tmp_path / "link.jsonl").symlink_to("middle.txt")  # the name of another image's text
    (tmp_path / "middle.txt").symlink_to("a.txt")
    (tmp_path / out).write_text("lines")
    assert written(tmp_path, ["a.jpg", "b.jpg", "middle.jpg"], out)["a.jpg"] == "a.jpg.txt"
    assert (tmp_path / out).read_text() == "lines"


def test_an_image_is_never_a_sidecar(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"pixels")
    (tmp_path / "b.jpg").symlink_to("a.txt")
    assert written(tmp_path, ["a.jpg", "b.jpg"]) == {"a.jpg": "a.jpg.txt", "b.jpg": "b.txt"}
    assert (tmp_path / "b.jpg").read_bytes() == b"pixels"


def test_an_output_that_would_have_to_be_a_sidecar_is_refused(tmp_path):
    with pytest.raises(EdgeLlavaError, match=r"a\.jpg\.txt would be the sidecar of a\.jpg, but it is the output.*-o"):
        written(tmp_path, ["a.jpg", "a.png"], "a.jpg.txt")


def test_a_pipe_is_not_waited_for(tmp_path, sidecars):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(OSError, match="not a regular file"):
        sidecars().write("a.jpg", "text")


def test_what_is_there_stays(tmp_path, sidecars):
    (tmp_path / "a.txt").write_text("by hand")
    files = sidecars()
    files.write("a.jpg", "by machine")
    assert (tmp_path / "a.txt").read_text() == "by hand"
    assert (files.n_written, files.n_kept) == (0, 1)


def test_the_same_text_is_not_written_twice(tmp_path, sidecars):
    sidecars().write("a.jpg", "text")
    before = (tmp_path / "a.txt").stat()
    for overwrite in (False, True):
        files = sidecars(overwrite=overwrite)
        files.write("a.jpg", "text")
        assert (files.n_written, files.n_kept) == (0, 0)
    assert (tmp_path / "a.txt").stat().st_ino == before.st_ino


def test_overwriting_is_by_rename(tmp_path, sidecars):
    (tmp_path / "a.txt").write_text("by hand")
    (tmp_path / "kept").hardlink_to(tmp_path / "a.txt")
    files = sidecars(overwrite=True)
    files.write("a.jpg", "by machine")
    assert (tmp_path / "a.txt").read_text() == "by machine\n"
    assert (tmp_path / "kept").read_text() == "by hand"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b", "kept"]


def test_json(tmp_path, sidecars):
    answer = {"colour": "grün", "half": "\ud83d"}
    sidecars(".json").write("a.jpg", answer)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == answer


def test_a_place_that_cannot_be_written(tmp_path, sidecars):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        sidecars().write("a.jpg", "text")
