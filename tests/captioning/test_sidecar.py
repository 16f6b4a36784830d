from __future__ import annotations

import json

import pytest

from edge_llava.captioning.sidecar import Sidecars

NAMES = ["a.jpg", "b/a.png", "b/a.jpg", "c.tar.jpg"]


@pytest.fixture
def sidecars(tmp_path):
    """sidecars(suffix=".txt", overwrite=False) -> Sidecars of the pictures NAMES in tmp_path."""
    (tmp_path / "b").mkdir()
    return lambda suffix=".txt", overwrite=False: Sidecars(tmp_path, NAMES, suffix=suffix, overwrite=overwrite)


def test_beside_each_picture_and_never_one_for_two(tmp_path, sidecars):
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
