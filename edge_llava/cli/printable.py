"""Makes text of unknown origin safe for a terminal: control characters become visible and have no effect.

A manifest, a file name or an answer may contain sequences that set the title, write to the clipboard, clear the screen
or turn the direction of what follows.
"""

from __future__ import annotations

import re

# C0 except tab and line feed, DEL, C1, line separators, embeddings and overrides of direction, isolates, and
# surrogates, which stand for bytes that are not UTF-8.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with its control characters written as Python does: \\x1b, \\u202e. Tabs and line feeds stay."""
    return _CONTROLS.sub(_name, text)


def printable_line(text: str) -> str:
    """The text as part of one line: line feeds and tabs are written as Python does, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _name(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
