"""Images in what is typed: paths as terminals write them, and words that are no paths."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from edge_llava.cli.conversation.pasted_paths import TypedText, find_images, find_missing, find_paths

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other separators and quotes")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a.png", "my holiday.JPG", "it's.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "cat").write_text("words")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "text", "names"),
    [
        ("{d}/a.png", "", ["{d}/a.png"]),
        ("{d}/a.png ", "", ["{d}/a.png"]),  # terminals add a blank
        ("'{d}/my holiday.JPG'", "", ["{d}/my holiday.JPG"]),
        ('"{d}/my holiday.JPG"', "", ["{d}/my holiday.JPG"]),
        (r"{d}/my\ holiday.JPG", "", ["{d}/my holiday.JPG"]),
        ("{d}/my holiday.JPG", "", ["{d}/my holiday.JPG"]),
        ("file://{d}/my%20holiday.JPG", "", ["{d}/my holiday.JPG"]),
        ("file://localhost{d}/a.png", "", ["{d}/a.png"]),
        (r"'{d}/it'\''s.png'", "", ["{d}/it's.png"]),
        (r"{d}/it\'s.png", "", ["{d}/it's.png"]),
        ("'{d}/a.png' '{d}/b.png' ", "", ["{d}/a.png", "{d}/b.png"]),
        ("a.png", "", ["a.png"]),
        ("~/a.png", "", ["{d}/a.png"]),
        ("demo:2", "", ["demo:2"]),
        ("What is this? '{d}/my holiday.JPG'", "What is this?", ["{d}/my holiday.JPG"]),
        (r"What's this? {d}/my\ holiday.JPG", "What's this?", ["{d}/my holiday.JPG"]),
        ("{d}/a.png What is this?", "What is this?", ["{d}/a.png"]),
        ("Describe {d}/a.png.", "Describe", ["{d}/a.png"]),
        ("Is {d}/a.png a cat?", "Is a.png a cat?", ["{d}/a.png"]),
        ("Compare {d}/a.png and {d}/b.png", "Compare a.png and b.png", ["{d}/a.png", "{d}/b.png"]),
        ("one\ntwo {d}/a.png", "one\ntwo", ["{d}/a.png"]),
    ],
)
def test_files_become_images(folder, typed, text, names):
    found = find_images(typed.replace("{d}", str(folder)))
    assert found == TypedText(text, tuple(name.replace("{d}", str(folder)) for name in names))


@pytest.mark.parametrize(
    "typed",
    [
        "Is there a cat?",  # a file of that name exists
        "What does notes.txt say, or {d}/notes.txt?",  # a file, but no image
        "Where is c.png? And {d}/c.png?",  # no such file
        "It's a 'quoted word' and \"another",
        "and/or",
        "file://elsewhere{d}/a.png",  # another computer
        "file://[x",
        "~\0.png",
        "{d}",
        "\\",
    ],
)
def test_words_stay_words(folder, typed):
    line = typed.replace("{d}", str(folder))
    assert find_images(line) == TypedText(line, ())


def test_the_argument_of_a_command(folder):
    for argument in (f"{folder}/my holiday.JPG", rf"{folder}/my\ holiday.JPG", f"'{folder}/my holiday.JPG'"):
        assert find_paths(argument) == (f"{folder}/my holiday.JPG",)
    assert find_paths("a.png b.png") == ("a.png", "b.png")
    assert find_paths("cat") == ("cat",)  # the user says that it is one
    assert find_paths(r"no\ such.png") == ("no such.png",)
    assert find_paths("~\0.png") == ("~\0.png",)


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        ("./phoo.jpg", "./phoo.jpg"),
        ("/home/x/nofile.png what is it?", "/home/x/nofile.png"),
        ("Describe '~/no such.png'.", "~/no such.png"),
        ("demo:9 what?", "demo:9"),
        ("What is a .png file, or nofile.png?", None),  # words
        ("Is it red/green?", None),
        ("{d}/a.png What is this?", None),
        ("demo:1 What is this?", None),
    ],
)
def test_what_can_only_be_an_image_and_is_none(folder, typed, missing):
    assert find_missing(typed.format(d=folder)) == missing
