"""A conversation whose images have no file, lose it, or are changed; and one of which nothing is left."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image, ImageGrab

from edge_llava import demo
from edge_llava.cli.conversation import shown_image
from edge_llava.cli.conversation.commands import run_command
from edge_llava.cli.conversation.conversation import note_dropped


def test_an_image_of_the_clipboard_has_no_file(conversation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(ImageGrab, "grab", lambda: Image.new("RGB", (8, 8)))
    for name in ("clipboard", "screenshot"):
        (tmp_path / name).write_text("a file of that name")
    run_command(conversation, "/paste")
    run_command(conversation, "/screenshot")
    assert [(image.name, image.file) for image in conversation.pending] == [("clipboard", None), ("screenshot", None)]


@pytest.fixture
def file(tmp_path):
    return shutil.copy(demo.PICTURES / "shapes-1.jpg", tmp_path / "a.jpg")


def ask_about(conversation, file):
    conversation.add(str(file))
    conversation.ask("What colour is the square?")


def ask(conversation):
    conversation.ask("What colour is the square?")
    return conversation.turns[-1].answer


COMMANDS = ("/undo", "/retry", "/system Answer in one word.", "/clear", "/load demo")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("becomes", ["gone", "another"])
def test_a_small_image_outlives_its_file(conversation, file, capsys, command, becomes):
    ask_about(conversation, file)
    file.unlink() if becomes == "gone" else shutil.copy(demo.PICTURES / "shapes-2.jpg", file)
    run_command(conversation, command)
    assert ask(conversation) == "Blue."
    assert [image.name for image in conversation.images] == [str(file)]
    assert "continues without it" not in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_large_image_goes_with_its_file(conversation, file, capsys, monkeypatch, command):
    monkeypatch.setattr(shown_image, "MAX_HELD_BYTES", 0)
    ask_about(conversation, file)
    conversation.add("demo:2")
    file.unlink()
    run_command(conversation, command)
    assert "a.jpg cannot be read any more: No such file or directory. The conversation" in capsys.readouterr().err
    ask(conversation)
    assert [image.name for image in conversation.images] == ["demo:2"]


@pytest.mark.parametrize("command", ["/undo", "/clear", "/clear all", "/load demo"])
def test_a_conversation_of_which_nothing_is_left_is_not_kept(conversation, home, command):
    kept = home / "conversation.json"
    kept.write_text("of an earlier conversation")
    run_command(conversation, "/system Be brief.")
    run_command(conversation, "/clear all")
    assert kept.read_text() == "of an earlier conversation"  # nothing was asked yet
    ask_about(conversation, "demo:1")
    assert "square" in kept.read_text()
    run_command(conversation, command)
    assert not kept.exists()


def test_dropped_questions_are_counted(capsys):
    note_dropped(1)
    note_dropped(3)
    assert capsys.readouterr().err.splitlines() == [
        "The context was full: the oldest question and its answer were dropped.",
        "The context was full: the oldest 3 questions and their answers were dropped.",
    ]
