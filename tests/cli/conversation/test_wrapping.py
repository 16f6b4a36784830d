"""Answers on a terminal: words are not cut, whatever the parts in which they arrive."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from rich.cells import cell_len

from edge_llava.cli.conversation.wrapping import WordWrapping

TEXT = (
    "A large blue square stands at the top of the image, to the right of a small green star.\n\n"
    "  1. The first item is indented, and is long enough to be broken somewhere.\n"
    "At the bottom there is a yellow ring; it is partly covered."
)


def wrap(text, width, seed):
    wrapping, shown, generator = WordWrapping(), "", random.Random(seed)
    while text:
        n = generator.randint(1, 7)
        shown += wrapping.feed(text[:n], width)
        text = text[n:]
    return shown + wrapping.rest(width)


@pytest.mark.parametrize("width", [20, 33, 40, 80, 200])
@pytest.mark.parametrize("seed", range(4))
def test_lines_fit_and_no_word_is_cut(width, seed):
    shown = wrap(TEXT, width, seed)
    assert max(map(len, shown.split("\n"))) <= width
    assert shown.split() == TEXT.split()
    assert shown.count("\n\n") == TEXT.count("\n\n")
    assert "\n  1. The" in shown
    if width == 200:
        assert shown == TEXT
    lines = shown.split("\n")
    for line, following in pairwise(lines):
        if f"{line}\n" not in TEXT and following:  # broken here: the next word had no room
            assert len(line) + 1 + len(following.split(" ")[0]) > width


def test_text_is_shown_at_once_far_from_the_edge():
    wrapping = WordWrapping()
    assert wrapping.feed("Hel", 80) == "Hel"
    assert wrapping.feed("lo", 80) == "lo"
    assert wrapping.feed(" " + "x" * 60, 80) == ""  # it may go on, beyond the edge
    assert wrapping.feed("y ", 80) == " " + "x" * 60 + "y"


def test_long_words_are_left_to_the_terminal():
    address = "https://example.org/" + "a" * 100
    assert wrap(f"See {address} there.", 40, 1).replace("\n", " ").split() == ["See", address, "there."]
    assert address in wrap(f"See {address} there.", 40, 2)


def test_scripts_without_blanks_break_anywhere():
    text = "图片里有一个蓝色的正方形" * 4
    shown = wrap(text, 21, 0)
    assert shown.replace("\n", "") == text
    assert [cell_len(line) for line in shown.split("\n")] == [20, 20, 20, 20, 16]
