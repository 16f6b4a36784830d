"""The conversation on a terminal, as a user has it: what is typed, pasted, shown and kept."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat

import pytest

from edge_llava import demo

pytest.importorskip("pty")


@pytest.fixture
def blank(tmp_path):
    """An image of the demo, in a file whose name contains a blank."""
    return shutil.copy(demo.PICTURES / "shapes-1.jpg", tmp_path / "my image.jpg")


def test_dropped_and_pasted_images(talk, blank, home):
    chat = talk("-m", "demo", "--no-preview")
    assert "no image in this conversation; /image PATH adds one" in chat.say("What is this?", "first word")
    assert "no image" not in chat.say("And this?", "first word")  # said once
    chat.terminal.paste(f"'{blank}' ")
    shown = chat.say("", "1 image will go with the next question")
    assert f"image: {blank}" in shown
    assert "[1 image] >" in shown
    assert "Blue." in chat.say("What colour is the square?", "first word")
    chat.say("/clear all")
    escaped = str(blank).replace(" ", "\\ ")
    assert "Blue." in chat.say(f"What colour is the square? {escaped}", "first word")
    assert str(blank) in chat.say("/images")
    assert "there is no image /no/such.png" in chat.say("/no/such.png")
    assert "there is no file" in chat.say(r"/image /no/such\ image.png")
    assert "images are not fetched" in chat.say("/image https://example.org/a.jpg")
    assert "[1 image] >" in chat.say(f"/image {escaped}")
    assert chat.leave() == 0


def test_several_lines_are_one_question(talk, home):
    chat = talk("demo:1", "--no-preview", "--system", "Be brief.")
    chat.terminal.paste("How many\nobjects\nare there?")
    chat.say("", "first word")
    chat.terminal.type("\udcff")
    assert "not UTF-8 text" in chat.say("")
    chat.terminal.paste("/load ~no\0ne")
    chat.terminal.type("\t")
    assert "no bundle '~none'" in chat.say("")
    chat.terminal.type("dropped")
    chat.terminal.read_until("dropped")
    chat.terminal.type("\x03")
    chat.read()
    assert "..." in chat.say('"""What colour')
    chat.say('is it?"""', "first word")
    assert chat.leave() == 0
    kept = json.loads((home / "conversation.json").read_text())
    assert [turn["question"] for turn in kept["turns"]] == ["How many\nobjects\nare there?", "What colour\nis it?"]
    assert kept["system"] == "Be brief."


def test_taking_back_and_asking_again(talk, home):
    chat = talk("demo:1", "--no-preview")
    first = chat.say("What colour is the square?", "first word")
    assert "Blue." in first
    assert "Blue." in chat.say("/retry", "first word")
    assert "taken back: What colour is the square?" in (shown := chat.say("/undo"))
    assert "[1 image] >" in shown
    assert "Three." in chat.say("How many objects are there?", "first word")
    assert "Yes." in chat.say("/retry Is there a star?", "first word")
    assert [turn["question"] for turn in json.loads((home / "conversation.json").read_text())["turns"]] == [
        "Is there a star?"
    ]
    assert "about the same 1 image" in (shown := chat.say("/clear"))
    assert "[1 image] >" in shown
    assert "Blue." in chat.say("What colour is the square?", "first word")
    chat.say("/undo")
    chat.say("/clear all")
    assert "nothing was asked yet" in chat.say("/undo")
    assert "nothing was asked yet" in chat.say("/retry")
    assert chat.leave() == 0


def test_settings_system_text_and_another_bundle(talk, home, seeded_q4):
    os.symlink(seeded_q4, (home / "bundles").mkdir() or home / "bundles" / "other")
    chat = talk("demo:1", "-m", "demo", "--no-preview")
    assert "temp 0, " in chat.say("/set")
    assert "temp 0.5, " in chat.say("/set parameter temperature 0.5")
    assert "seed 4123456789, " in chat.say("/set seed 4123456789")
    assert "top-p 0.1234567, " in chat.say("/set top-p 0.1234567")
    assert "seed 7, " in chat.say("/set seed 7")
    assert "temperature must be from 0 to 100" in chat.say("/set temp 1000")
    assert "'x' is not a number" in chat.say("/set max-tokens x")
    assert "there is no setting 'colour'" in chat.say("/set colour red")
    assert "on-full error" in chat.say("/set on-full error")
    assert "system text: " in chat.say("/system")
    chat.say("/system Answer in one word.")
    assert "system text: Answer in one word." in chat.say("/set system")
    assert "no bundle 'none'" in chat.say("/load none")
    assert "seed 7" in chat.say("/set temp 0")
    assert "Blue." in chat.say("What colour is the square?", "first word")
    shown = chat.say("/load ot\t", "answers now")  # completed
    assert "other answers now" in shown
    assert "[1 image] >" in shown
    chat.say("/set max-tokens 3", "max-tokens 3")
    chat.say("What?", "first word")
    assert chat.leave() == 0
    kept = json.loads((home / "conversation.json").read_text())
    assert (kept["bundle"], kept["system"]) == (str(home / "bundles" / "other"), "Answer in one word.")


def test_a_conversation_is_continued(talk, home, blank):
    chat = talk(blank, "--no-preview", "-m", "demo")
    assert "Blue." in chat.say("What colour is the square?", "first word")
    assert chat.leave() == 0
    for name in ("history", "conversation.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    chat = talk("--continue", "--no-preview")
    assert "Continuing a conversation of 1 question" in chat.first
    assert str(blank) in chat.say("/images")
    assert "Three." in chat.say("How many objects are there?", "first word")
    chat.terminal.type("\x1b[A\x1b[A\x1b[A")
    assert "What colour is the square?" in chat.say("", "first word")  # of the history
    assert chat.leave() == 0


@pytest.mark.parametrize("variable", [False, True])
def test_nothing_is_kept_unless_wanted(talk, home, variable):
    chat = talk(
        "demo:1",
        "--no-preview",
        *() if variable else ("--no-history",),
        **{"EDGE_LLAVA_NO_HISTORY": str(int(variable))},
    )
    chat.say("What is this?", "first word")
    assert chat.leave() == 0
    assert not {"history", "conversation.json"} & set(os.listdir(home))


def test_an_image_is_shown_and_an_answer_copied(talk):
    chat = talk("demo:1", COLORTERM="truecolor", SSH_CONNECTION="x")
    assert "▀▀▀" in chat.first
    chat.say("What colour is the square?", "first word")
    chat.say("/copy", "sent to the terminal's clipboard")
    assert base64.b64encode(b"Blue.").decode() in re.search(r"\x1b\]52;c;(.*?)\x07", chat.terminal.text)[1]
    assert "▀▀▀" in chat.say("/image demo:2", "will go")
    for command in ("/paste", "/screenshot"):  # there may be a desktop or none
        chat.say(command)
    assert chat.leave() == 0
    assert "▀" not in talk("demo:1", COLORTERM="truecolor", NO_COLOR="1").first


def test_what_is_typed_during_an_answer_waits_for_the_prompt(open_terminal, seeded_f32, photo):
    terminal = open_terminal("chat", photo, "-m", seeded_f32, "-n", 300, "--temp", 0, "--no-preview", TERM="xterm")
    terminal.read_until(r"\[1 image\] >")
    terminal.type("Tell me everything.\r")
    terminal.read_until(r"\?2004l(?s:.{40})")
    terminal.type("qqqq")
    during = terminal.read_until(r"first word(?s:.*)qqqq")
    assert "qqqq" not in during[: during.index("first word")]
    terminal.type("\x03\x04")
    assert terminal.close() == 0


def test_a_signal_ends_it_at_the_prompt(talk):
    chat = talk("demo:1", "--no-preview")
    chat.terminal.process.terminate()
    assert chat.terminal.close() == 130
    assert "Traceback" not in chat.terminal.text
