"""The line that a terminal shows while an answer is computed that has not begun."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from dataclasses import replace

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.answer import describe_timings
from edge_llava.cli.pace import Pace, measured_pace
from edge_llava.cli.waiting import Moment, WaitingLine, describe_moment
from edge_llava.device.facts import this_device
from edge_llava.device.profile import DeviceSettings, Profile, save_profile
from edge_llava.home.progress import ProgressEvent
from edge_llava.runtime.answer import AnswerProgress, Timings

pytestmark = pytest.mark.convert
READING = AnswerProgress("reading", 0, 256, 640, 0, 256, 2.0)
ENCODING = replace(READING, stage="encoding", n_images=1)
FEW = replace(READING, n_read=35, n_computed=35)
LONG = replace(READING, n_read=1256, n_prompt=2640)
TIMINGS = Timings(0.0, 0.0, 7.84, 0.0, 0, 3.06, 0.0, 0, 0.0, 0, 0, "cpu", "cpu")


@pytest.mark.parametrize(
    ("progress", "stage_s", "read_s", "tiles", "pace", "text"),
    [
        (None, 2, 2, None, Pace(), "starting ..."),
        (replace(READING, stage="waiting"), 2, 2, None, Pace(), "starting ..."),
        (ENCODING, 0.4, 0.4, None, Pace(), "encoding the image ..."),
        (ENCODING, 12.2, 12.2, None, Pace(), "encoding the image, for 12 s"),
        (ENCODING, 2, 2, None, Pace(tile_s=8), "encoding the image, about 6 s"),
        (ENCODING, 9, 9, None, Pace(tile_s=8), "encoding the image, for 9 s"),
        (replace(ENCODING, n_images=3), 0, 0, None, Pace(), "encoding 3 images ..."),
        (ENCODING, 10, 10, (5, 30), Pace(tile_s=8), "encoding the image, 5 of 30 tiles, about 50 s"),
        (READING, 2, 0, None, Pace(), "reading 256 of 640 positions, about 3 s"),
        (READING, 3, 1, None, Pace(position_s=9), "reading 256 of 640 positions, about 2 s"),
        (FEW, 0, 0, None, Pace(), "reading 35 of 640 positions ..."),
        (FEW, 0, 4, None, Pace(position_s=1), "reading 35 of 640 positions, about 10 minutes"),
        (READING, 7, 5, None, Pace(), "reading 256 of 640 positions, for 7 s"),
        (LONG, 0, 0, None, Pace(), "reading 1,256 of 2,640 positions, about 11 s"),
        (replace(READING, stage="writing", n_tokens=3), 2, 2, None, Pace(), "writing, 3 tokens ..."),
    ],
)  # fmt: skip
def test_the_stage_and_the_time_that_is_expected(progress, stage_s, read_s, tiles, pace, text):
    assert describe_moment(Moment(progress, stage_s, read_s, 1, tiles), pace) == text


def test_the_pace_is_what_was_measured_here(seeded_q4, home):
    manifest = Bundle.open(seeded_q4).manifest
    assert measured_pace(manifest, tuned=True) == Pace()
    settings = DeviceSettings(1, True, 1, True, 512, None, "auto")
    digests = (manifest.files[role].sha256 for role in ("language", "vision"))
    measured = {"vision_s": 1.5, "projector_s": 0.5, "prefill_tps": 20.0}
    save_profile(Profile(settings, "total", this_device(), *digests, measured), manifest)
    assert measured_pace(manifest, tuned=True) == Pace(2.0, 0.05)
    assert measured_pace(manifest, tuned=False) == Pace()


class Screen:
    """A pseudo terminal in place of stderr."""

    def __init__(self, columns, term="xterm"):
        self._main, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._file, self._patch = os.fdopen(child, "w"), pytest.MonkeyPatch()
        self._patch.setattr(sys, "stderr", self._file)
        self._patch.setenv("TERM", term)
        self.text = ""

    def read(self, pattern=None, seconds=20):
        """Reads until a pattern occurs; without one, what is there. Returns the lines as they were drawn."""
        deadline = time.monotonic() + seconds
        while pattern is None or not re.search(pattern, self.text):
            assert time.monotonic() < deadline, (pattern, self.text)
            if select.select([self._main], [], [], 0 if pattern is None else 0.1)[0]:
                self.text += os.read(self._main, 65536).decode()
            elif pattern is None:
                break
        return [line for line in re.sub(r"\x1b\[\d*m", "", self.text).split("\r") if line]

    def close(self):
        self._patch.undo()
        self._file.close()
        os.close(self._main)


@pytest.fixture
def screen():
    opened = []

    def open_screen(columns, term="xterm"):
        opened.append(Screen(columns, term))
        return opened[-1]

    yield open_screen
    for each in opened:
        each.close()


@pytest.mark.parametrize("columns", [40, 80])
def test_the_line_is_drawn_over_itself_and_erased(screen, columns):
    shown, moments = screen(columns), [LONG, ENCODING]
    with WaitingLine(lambda: moments[0], 1, Pace()) as line:
        shown.read("reading")
        del moments[0]
        line.note_tiles(ProgressEvent("tiles", 5, 30))
        shown.read("5 of 30 tiles")
    lines = shown.read()
    full = "reading 1,256 of 2,640 positions, about 11 s"
    assert lines[0] == (full if columns == 80 else full.partition(", about")[0])
    assert max(map(len, lines)) < columns, "nothing wraps"
    seen = ""
    for line in lines:
        seen = line + seen[len(line) :]
    assert seen.strip() == "", "all of it is erased"
    assert "\n" not in shown.text
    assert shown.text.endswith("\r")


def test_an_answer_that_begins_at_once_needs_no_line(screen):
    shown = screen(80)
    with WaitingLine(lambda: READING, 1, Pace()) as line:
        line.erase()
        line.erase()
    assert shown.read() == []


def test_the_line_ends_where_the_answer_fails(screen):
    shown = screen(80)

    def fail():
        with WaitingLine(lambda: READING, 1, Pace()):
            shown.read("reading")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shown.read()[-1].strip() == ""


def test_no_line_where_no_terminal_can_draw_it(screen, capfd):
    with WaitingLine(lambda: READING, 1, Pace()) as line:
        assert not line._drawing.is_alive()
    assert capfd.readouterr().err == ""
    dumb = screen(80, "dumb")
    with WaitingLine(lambda: READING, 1, Pace()) as line:
        assert not line._drawing.is_alive()
    assert dumb.read() == []


def test_timings_name_no_first_word_that_never_came():
    assert describe_timings(TIMINGS, "cancelled") == "[image 7.84 s, stopped]"
    assert describe_timings(replace(TIMINGS, prefill_tokens=64, ttft_s=11.0), "cancelled") == (
        "[image 7.84 s, prompt 64 tokens in 3.06 s, first word 11.00 s, stopped]"
    )
