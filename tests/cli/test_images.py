"""Images as people have them, through the commands: truncated, transparent, in unsupported formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

NOISE = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SAID = "cut.jpg is truncated: its file ends early, and part of the image is missing."


@pytest.fixture
def cut(tmp_path):
    """A JPEG without its last two bytes."""
    Image.fromarray(NOISE).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:-2])
    return tmp_path / "cut.jpg"


@pytest.fixture
def clear(tmp_path):
    """A PNG of noise, all of it transparent; the same image as opaque noise; and a white one."""
    Image.fromarray(NOISE).save(tmp_path / "noise.png")
    Image.new("RGB", (64, 48), "white").save(tmp_path / "white.png")
    Image.fromarray(np.dstack([NOISE, np.zeros((48, 64), np.uint8)])).save(tmp_path / "clear.png")
    return tmp_path / "clear.png"


def test_chat_warns_of_a_truncated_image(run, seeded_q4, cut):
    result = run("chat", cut, "-m", seeded_q4, "-p", "What?", "-n", 2, "-t", 1, "--json")
    assert result.code == 0
    assert result.err.count(SAID) == 1
    (image,) = json.loads(result.out)["images"]
    assert image["truncated"] is True


def test_embed_warns_of_a_truncated_image(run, seeded_q4, cut, tmp_path):
    result = run("embed", cut, "-m", seeded_q4, "-o", tmp_path / "a.safetensors", "-t", 1)
    assert result.code == 0
    assert result.err.count(SAID) == 1


@pytest.mark.parametrize(("options", "same"), [((), "white.png"), (("--alpha", "drop"), "noise.png")])
def test_alpha(run, seeded_q4, clear, tmp_path, options, same):
    def key(name, *more):
        result = run("chat", tmp_path / name, "-m", seeded_q4, "-p", "What?", "-n", 1, "-t", 1, "--json", *more)
        assert result.code == 0
        (image,) = json.loads(result.out)["images"]
        assert "truncated" not in image
        return image["key"]

    result = run("embed", clear, "-m", seeded_q4, "-o", tmp_path / "e", "-t", 1, "--json", *options)
    assert json.loads(result.out)["key"] == key("clear.png", *options) == key(same)


def test_caption_takes_alpha_for_another_setting(run, seeded_q4, clear, tmp_path):
    command = ("caption", tmp_path, "-m", seeded_q4, "-t", 1, "-n", 2)
    assert run(*command).code == 0
    result = run(*command, "--alpha", "drop")
    assert (result.code, result.out) == (1, "")
    assert "or --alpha differ" in result.err


@pytest.mark.parametrize(
    ("content", "kind"), [(b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"), (b"\xff\x0a\0\0", "a JPEG XL image")]
)
def test_what_is_not_read_is_named(run, tmp_path, content, kind):
    (tmp_path / "holiday.jpg").write_bytes(content)
    result = run("chat", tmp_path / "holiday.jpg", "-m", "no-such-bundle", "-p", "What?")
    assert (result.code, result.out) == (7, "")
    assert f"holiday.jpg is {kind}, which is not read here. Convert it to JPEG or PNG." in result.err
