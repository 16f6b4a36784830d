"""The view of an image on a terminal: decoded again, each protocol shows the image."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from edge_llava.cli.conversation import preview


@pytest.fixture
def flag():
    """Left half red, right half blue."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("environment", "draw"),
    [
        ({"TERM": "xterm-kitty"}, preview.draw_kitty),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, preview.draw_kitty),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, preview.draw_iterm),
        ({"TERM": "foot"}, preview.draw_sixel),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, preview.draw_blocks),
        ({"TERM": "xterm-256color"}, preview.draw_blocks_in_256),
        ({"TERM": "tmux-256color", "TMUX": "x", "KITTY_WINDOW_ID": "1"}, preview.draw_blocks_in_256),
        ({"TERM": "xterm"}, None),
        ({}, None),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
    ],
)
def test_which_terminal_shows_it_how(environment, draw):
    assert preview.choose_protocol(environment) is draw


@pytest.mark.parametrize(
    ("size", "n_columns", "cells"),
    [((800, 600), 80, (32, 12)), ((6000, 100), 80, (40, 1)), ((10, 4000), 80, (1, 12)), ((800, 600), 21, (20, 8))],
)
def test_its_size_on_the_screen(size, n_columns, cells):
    assert preview.count_cells(size, n_columns) == cells


def check_flag(png):
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        assert image.getpixel((1, 1)) == (255, 0, 0)
        assert image.getpixel((image.width - 1, 1)) == (0, 0, 255)


def test_kitty(flag, noise):
    for image in (flag, Image.fromarray(noise(300, 200))):
        parts = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", preview.draw_kitty(image, 10, 3))
        assert parts[0][0].startswith("a=T,f=100,q=2,c=10,r=3,m=")
        assert [part[0][-1] for part in parts] == ["1"] * (len(parts) - 1) + ["0"]
        assert max(len(data) for _, data in parts) <= 4096
        png = base64.b64decode("".join(data for _, data in parts))
        if image is flag:
            check_flag(png)
    assert len(parts) > 1  # noise does not fit into one


def test_iterm(flag):
    found = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);width=10;height=3:(.*)\x07", preview.draw_iterm(flag, 10, 3)
    )
    assert found is not None
    png = base64.b64decode(found[2])
    assert len(png) == int(found[1])
    check_flag(png)


def test_sixel(flag):
    drawn = preview.draw_sixel(flag, 10, 3)
    found = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)((?:#\d+;2;\d+;\d+;\d+)*)(.*)\x1b\\', drawn)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    colours = {int(n): tuple(map(int, rgb.split(";"))) for n, rgb in re.findall(r"#(\d+);2;([\d;]+)", found[3])}
    shown = np.full((height, width, 3), -1)
    for band, lines in enumerate(found[4].split("-")):
        for line in lines.split("$"):
            number, bits = re.fullmatch(r"#(\d+)(.*)", line).groups()
            for x, character in enumerate(bits):
                for y in range(6):
                    if (ord(character) - 63) >> y & 1:
                        shown[6 * band + y, x] = colours[int(number)]
    assert (shown[:, : width // 2] == (100, 0, 0)).all()
    assert (shown[:, width // 2 :] == (0, 0, 100)).all()


def test_blocks(flag):
    red, blue = "\x1b[38;2;255;0;0;48;2;255;0;0m▀", "\x1b[38;2;0;0;255;48;2;0;0;255m▀"
    line = red * 2 + blue * 2 + "\x1b[0m"
    assert preview.draw_blocks(flag, 4, 2) == f"{line}\n{line}"
    assert preview.draw_blocks_in_256(flag, 2, 1) == "\x1b[38;5;196;48;5;196m▀\x1b[38;5;21;48;5;21m▀\x1b[0m"
