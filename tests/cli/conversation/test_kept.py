"""Conversations that are kept and exported, and what has become of their images since."""

from __future__ import annotations

import base64
import io
import re
import shutil

import pytest
from PIL import Image

from edge_llava import demo
from edge_llava.cli.conversation.export import save_transcript
from edge_llava.cli.conversation.kept import check_images, keep_conversation, read_conversation
from edge_llava.cli.conversation.shown_image import ShownImage, find_file
from edge_llava.cli.conversation.transcript import AnsweredQuestion, Transcript
from edge_llava.cli.images import open_image
from edge_llava.errors import EdgeLlavaError, ImageError


@pytest.fixture
def shown(tmp_path):
    """An image in a file whose name contains a blank."""
    file = shutil.copy(demo.PICTURES / "shapes-1.jpg", tmp_path / "my image.jpg")
    return ShownImage.of(str(file), open_image(str(file), "white"), "white", file=file)


@pytest.fixture
def turns(shown):
    return [AnsweredQuestion("What is <b>this</b>?", (shown,), "Three & more."), AnsweredQuestion("Why?", (), "So.")]


def keep(turns):
    keep_conversation(demo.BUNDLE, "Be brief.", turns)
    return read_conversation("white")


def test_what_is_kept_is_read_again(home, turns, shown, capsys):
    kept = keep(turns)
    assert (kept.bundle, kept.system) == (demo.BUNDLE, "Be brief.")
    checked = check_images(kept.turns)
    assert [(turn.question, turn.answer) for turn in checked] == [(turn.question, turn.answer) for turn in turns]
    assert checked[0].images[0].open().pixels == shown.open().pixels
    assert capsys.readouterr().err == ""


def test_an_image_that_changed_or_went(home, turns, shown, capsys):
    shutil.copy(demo.PICTURES / "shapes-2.jpg", shown.file)
    assert len(check_images(keep(turns).turns)[0].images) == 1
    assert "has changed since; the conversation continues with the file as it is now" in capsys.readouterr().err
    shown.let_go()
    assert shown.open().pixels == open_image("demo:1", "white").pixels  # it was small
    shown._held = None
    with pytest.raises(ImageError, match="has changed since it was shown"):
        shown.open()
    shown.file.unlink()
    assert check_images(keep(turns).turns)[0].images == ()
    assert "cannot be read any more: No such file or directory. The conversation" in capsys.readouterr().err


def test_an_image_without_a_file_stays_until_the_end(home, capsys):
    of_screen = ShownImage.of("screenshot", open_image("demo:1", "white"), "white", file=None)
    of_screen.let_go()
    assert of_screen.open().size
    assert check_images(keep([AnsweredQuestion("What?", (of_screen,), "A.")]).turns)[0].images == ()
    assert "screenshot was not kept" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "bundle": 3}', "\udcff"])
def test_a_damaged_file_is_one_error(home, text):
    (home / "conversation.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(EdgeLlavaError, match=r"conversation\.json.* without --continue"):
        read_conversation("white")


def test_a_home_that_refuses_it(home, turns, capsys):
    (home / "conversation.json").mkdir()
    assert not keep_conversation(demo.BUNDLE, "", turns)
    assert "the conversation cannot be kept for --continue" in capsys.readouterr().err


def test_without_one_there_is_nothing_to_continue(home):
    with pytest.raises(EdgeLlavaError, match="there is no conversation to continue"):
        read_conversation("white")


def test_exports(turns, tmp_path, capsys):
    transcript = Transcript("demo", "Be <brief>.", tuple(turns))
    (tmp_path / "my talks").mkdir()
    save_transcript(transcript, f'"{tmp_path / "my talks" / "a talk.md"}"')
    text = (tmp_path / "my talks" / "a talk.md").read_text()
    assert text.startswith("**System:** Be <brief>.\n")
    assert "![](../my%20image.jpg)\n\n**User:** What is <b>this</b>?\n\n**Assistant:** Three" in text
    save_transcript(transcript, str(tmp_path / "talk.html"))
    page = (tmp_path / "talk.html").read_text()
    assert "What is &lt;b&gt;this&lt;/b&gt;?" in page
    assert "Be &lt;brief&gt;." in page
    assert "<b>" not in page
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data)), formats=["JPEG"]) as image:
        assert image.size == open_image("demo:1", "white").size
    capsys.readouterr()
    for name, says in (("talk.txt", "end the name with .md"), ("talk.html", "exists already"), ("no/a.md", "No such")):
        save_transcript(transcript, str(tmp_path / name))
        assert says in capsys.readouterr().err
    assert not (tmp_path / "talk.txt").exists()


def test_images_without_a_file_of_the_user_are_names_in_markdown(shown, tmp_path):
    of_demo = ShownImage.of("demo:1", open_image("demo:1", "white"), "white", file=find_file("demo:1"))
    of_screen = ShownImage.of("screenshot", open_image("demo:1", "white"), "white", file=None)
    shown.file.unlink()
    turns = (AnsweredQuestion("What?", (of_demo, of_screen, shown), "A."),)
    text = Transcript("demo", "", turns).to_markdown(tmp_path)
    assert text.startswith("(demo:1)\n\n(screenshot)\n\n(my image.jpg)\n\n**User:**")
