"""Which licence files are copied into a bundle, and that nothing else is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import edge_llava
from edge_llava.converters.licenses import find_licenses

pytestmark = pytest.mark.convert

DEMO = Path(edge_llava.__file__).parent / "demo" / "llava-scenes"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory with one licence, next to a private file."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "LICENSE").write_text("Be kind. © 2023\n", encoding="utf-8")
    (tmp_path / "secret").write_text("token")
    (tmp_path / "secret").chmod(0o600)
    return directory


def names(directory: Path) -> list[str]:
    return [path.name for path in find_licenses(directory)]


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "{absolute}", "sub/../../secret"])
def test_a_link_that_leaves_the_checkpoint_is_not_followed(checkpoint, caplog, target):
    (checkpoint / "sub").mkdir()
    (checkpoint / "LICENSE-2").symlink_to(target.format(absolute=checkpoint.parent / "secret"))
    assert names(checkpoint) == ["LICENSE"]
    assert "LICENSE-2 is not copied into the bundle: it is a link that leaves the checkpoint" in caplog.text


def test_a_link_through_a_linked_directory_is_not_followed(checkpoint):
    (checkpoint / "sub").symlink_to(checkpoint.parent)
    (checkpoint / "NOTICE").symlink_to("sub/secret")
    assert names(checkpoint) == ["LICENSE"]


def test_links_inside_are_followed(checkpoint):
    (checkpoint / "texts").mkdir()
    (checkpoint / "texts" / "notice").write_text("n")
    (checkpoint / "NOTICE").symlink_to("texts/notice")
    linked = checkpoint.parent / "linked"
    linked.symlink_to(checkpoint)
    assert names(checkpoint) == names(linked) == ["LICENSE", "NOTICE"]


def test_a_snapshot_links_to_the_blobs_of_its_own_model(tmp_path):
    blobs, other = (tmp_path / f"models--owner--{name}" / "blobs" for name in ("a", "b"))
    snapshot = blobs.parent / "snapshots" / "0123"
    for directory in (blobs, other, snapshot):
        directory.mkdir(parents=True)
        (directory / "blob").write_text("text")
    (snapshot / "LICENSE").symlink_to("../../blobs/blob")
    (snapshot / "NOTICE").symlink_to("../../../models--owner--b/blobs/blob")
    (snapshot / "COPYING").symlink_to("../../../../../etc/hostname")
    assert names(snapshot) == ["LICENSE"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"x" * ((1 << 20) + 1), "it is larger than 1 MB"),
        (b"text\0binary", "it is not text"),
        (b"\x7fELF", "it is not text"),
        (b"\x1b[2J", "it is not text"),
    ],
)
def test_only_texts_of_a_size_that_texts_have(checkpoint, caplog, data, fault):
    (checkpoint / "LICENSE.bin").write_bytes(data)
    assert names(checkpoint) == ["LICENSE"]
    assert fault in caplog.text


def test_what_is_not_a_file_is_passed_over(checkpoint):
    os.mkfifo(checkpoint / "LICENSE.fifo")
    (checkpoint / "licenses").mkdir()
    (checkpoint / "NOTICE").symlink_to("missing")
    (checkpoint / "COPYING.latin-1").write_bytes("© 2023".encode("latin-1"))
    assert names(checkpoint) == ["COPYING.latin-1", "LICENSE"]


def test_files_of_a_bundle_obey_the_umask(seeded_checkpoint, copy_of, tmp_path):
    from edge_llava.conversion.convert import convert
    from edge_llava.converters.options import ConvertOptions

    copy = copy_of(seeded_checkpoint)
    (copy / "LICENSE").write_text("be kind")
    (copy / "LICENSE").chmod(0o666)
    mask = 0o077
    before = os.umask(mask)
    try:
        bundle = convert(copy, tmp_path / "bundle", ConvertOptions(quant="F16", vision="fp32"))
    finally:
        os.umask(before)
    paths = [bundle.path, *bundle.path.rglob("*")]
    assert (bundle.path / "licenses" / "LICENSE") in paths
    for path in paths:
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_the_demo_states_its_licence():
    assert names(DEMO) == ["LICENSE"]
    assert (DEMO / "LICENSE").read_bytes() == (Path(edge_llava.__file__).parents[1] / "LICENSE").read_bytes()
    assert "license: apache-2.0" in (DEMO / "README.md").read_text(encoding="utf-8")
