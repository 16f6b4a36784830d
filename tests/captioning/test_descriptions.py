"""Captions that are written into images, or into XMP sidecars, and runs that resume after that."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import stat
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import edge_llava
from edge_llava.captioning.caption_folder import caption_folder
from edge_llava.captioning.metadata.descriptions import Descriptions
from edge_llava.captioning.options import CaptionOptions
from edge_llava.home.files import digest_file
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions

PLAIN = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=4))
DESCRIBE = dataclasses.replace(PLAIN, describe="image")


@pytest.fixture(scope="module")
def model(seeded_f32, tmp_path_factory):
    options = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_LLAVA_HOME", str(tmp_path_factory.mktemp("home")))
        with edge_llava.load(seeded_f32, options) as opened:
            yield opened


@pytest.fixture
def photos(tmp_path):
    """A folder of a.jpg, b.jpg and copy.jpg, which is b.jpg again."""
    directory = tmp_path / "photos"
    directory.mkdir()
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / name)
    shutil.copy(directory / "b.jpg", directory / "copy.jpg")
    return directory


def lines(directory):
    return [json.loads(line) for line in (directory / "captions.jsonl").read_text(encoding="utf-8").splitlines()]


def told(path):
    """The EXIF description, which Pillow reads as Latin-1."""
    with Image.open(path) as image:
        return image.getexif().get(270, "").encode("latin-1").decode()


def text_of(line):
    """The caption as XML can hold it: this bundle's answers have control characters."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", line["caption"])


def figures(report):
    return (report.n_captioned, report.n_duplicates, report.n_earlier, report.n_descriptions)


def test_images_that_were_described_are_not_captioned_again(model, photos):
    before = {path.name: digest_file(path) for path in photos.iterdir()}
    assert figures(caption_folder(model, photos, options=DESCRIBE)) == (2, 1, 0, 3)
    for line in lines(photos):
        path = photos / line["path"]
        assert told(path) == text_of(line) != ""
        assert (line["sha256"], line["written_sha256"]) == (before[path.name], digest_file(path))
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()}
    for options in (DESCRIBE, PLAIN):
        again = caption_folder(model, photos, options=options)
        assert (figures(again), again.n_descriptions_kept) == ((0, 0, 3, 0), 0)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()} == kept
    shutil.copy(photos / "a.jpg", photos / "z.jpg")  # a copy of what was written
    assert figures(caption_folder(model, photos, options=DESCRIBE)) == (0, 1, 3, 0)
    assert (lines(photos)[-1]["duplicate_of"], lines(photos)[-1]["sha256"]) == ("a.jpg", digest_file(photos / "z.jpg"))
    assert figures(caption_folder(model, photos, options=DESCRIBE)) == (0, 0, 4, 0)


def test_a_kill_between_the_line_and_the_image(model, photos, tmp_path):
    """Then the line says what the image will be, and the next run makes it so."""
    shutil.copytree(photos, tmp_path / "as-before")
    caption_folder(model, photos, options=DESCRIBE)
    described, all_lines = (photos / "b.jpg").read_bytes(), lines(photos)
    shutil.copy(tmp_path / "as-before" / "b.jpg", photos / "b.jpg")
    assert figures(caption_folder(model, photos, options=DESCRIBE)) == (0, 0, 3, 1)
    assert (photos / "b.jpg").read_bytes() == described
    assert lines(photos) == all_lines


def test_descriptions_of_earlier_captions_are_made_up_for(model, photos):
    caption_folder(model, photos, options=PLAIN)
    assert figures(caption_folder(model, photos, options=DESCRIBE)) == (0, 0, 3, 3)
    assert [line["path"] for line in lines(photos)] == ["a.jpg", "b.jpg", "copy.jpg"] * 2
    assert [line.get("duplicate_of") for line in lines(photos)] == [None, None, "b.jpg"] * 2
    for options in (PLAIN, DESCRIBE):
        assert figures(caption_folder(model, photos, options=options)) == (0, 0, 3, 0)
    assert len(lines(photos)) == 6


def test_what_people_wrote_stays_unless_it_may_be_replaced(model, photos):
    exif = Image.Exif()
    exif[270] = "by hand"
    Image.new("RGB", (9, 9)).save(photos / "a.jpg", exif=exif)
    report = caption_folder(model, photos, options=DESCRIBE)
    assert (figures(report), report.n_descriptions_kept) == ((2, 1, 0, 2), 1)
    assert told(photos / "a.jpg") == "by hand"
    assert "written_sha256" not in lines(photos)[0]
    replace = dataclasses.replace(DESCRIBE, replace_descriptions=True)
    assert figures(caption_folder(model, photos, options=replace)) == (0, 0, 3, 1)
    assert told(photos / "a.jpg") == text_of(lines(photos)[0])


def test_xmp_sidecars_leave_images_alone(model, photos):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    options = dataclasses.replace(PLAIN, describe="xmp")
    assert figures(caption_folder(model, photos, options=options)) == (2, 1, 0, 3)
    for line in lines(photos):
        assert (photos / line["path"]).read_bytes() == before[line["path"]]
        assert "written_sha256" not in line
        assert "".join(ElementTree.parse(photos / f"{line['path']}.xmp").getroot().itertext()).strip() == text_of(line)
    (photos / "a.jpg.xmp").unlink()
    again = caption_folder(model, photos, options=options)
    assert (figures(again), again.n_descriptions_kept) == ((0, 0, 3, 1), 2)


def test_files_that_cannot_be_described_keep_their_captions(model, photos):
    Image.new("RGB", (9, 9)).save(photos / "x.bmp")
    (photos / "a.jpg.xmp").write_text("notes")
    report = caption_folder(model, photos, options=DESCRIBE)
    assert (figures(report), len(lines(photos))) == ((3, 1, 0, 3), 4)
    (fault,) = report.faults
    assert fault.path == "x.bmp"
    assert fault.reason.startswith("descriptions can be written only into JPEG, PNG, WebP and TIFF files; it is none")
    assert "--write-metadata xmp" in fault.reason
    options = dataclasses.replace(PLAIN, describe="xmp")
    faults = caption_folder(model, photos, options=options).faults
    assert [(fault.path, "is not XMP" in fault.reason) for fault in faults] == [("a.jpg", True)]
    assert (photos / "a.jpg.xmp").read_text() == "notes"


@pytest.fixture
def prepared(photos):
    """The description of a.jpg, to be written by the second."""
    files = Descriptions("image", replace=False)
    return files, files.prepare(photos / "a.jpg", digest_file(photos / "a.jpg"), "text")


def test_an_image_that_changes_before_it_is_written_stays_as_it_is(photos, prepared):
    files, description = prepared
    shutil.copy(photos / "b.jpg", photos / "a.jpg")
    with pytest.raises(OSError, match="it was changed meanwhile"):
        files.write(description)
    assert (photos / "a.jpg").read_bytes() == (photos / "b.jpg").read_bytes()
    assert sorted(path.name for path in photos.iterdir()) == ["a.jpg", "b.jpg", "copy.jpg"]
    with pytest.raises(OSError, match="it was changed meanwhile"):
        files.prepare(photos / "b.jpg", "0" * 64, "text")


def test_permissions_and_links_stay(photos, prepared):
    files, description = prepared
    (photos / "a.jpg").chmod(0o606)
    (photos / "link.jpg").symlink_to("a.jpg")
    files.write(description)
    assert stat.S_IMODE((photos / "a.jpg").stat().st_mode) == 0o606
    assert told(photos / "a.jpg") == "text"
    before = (photos / "a.jpg").read_bytes()
    assert files.prepare(photos / "link.jpg", "0" * 64, "text") is None  # read before a.jpg was described
    files = Descriptions("image", replace=True)
    files.write(files.prepare(photos / "link.jpg", digest_file(photos / "link.jpg"), "other"))
    assert (photos / "link.jpg").is_symlink()
    assert told(photos / "a.jpg") == "other"
    assert (photos / "a.jpg").read_bytes() != before


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everything")
def test_read_only_images_are_not_replaced(photos):
    (photos / "a.jpg").chmod(0o444)
    with pytest.raises(OSError, match="it is read-only"):
        Descriptions("image", replace=False).prepare(photos / "a.jpg", digest_file(photos / "a.jpg"), "text")


def test_json_is_no_description():
    with pytest.raises(ValueError, match="the answers to a schema are JSON"):
        CaptionOptions(schema={"enum": ["a"]}, describe="image")
