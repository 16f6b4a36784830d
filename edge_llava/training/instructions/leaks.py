"""Finds what betrays that an answer was made from captions and boxes, not from the image.

The patterns allow ordinary words: a cardboard box, players who coordinate their moves, the text on a sign.
"""

from __future__ import annotations

import re

_GIVEN = r"(?:provided|given|supplied)"
_SOURCE = r"(?:information|descriptions?|texts?|sentences?|data|context|details|annotations?|list)"

_PATTERNS = {
    "captions": r"\bcaptions?\b",
    "bounding boxes": r"\bbounding[ -]?box(?:es)?\b",
    "coordinates": (
        r"\b(?:the|these|those|its|their|given|provided|exact|specific|pixel|image|box|spatial|normali[sz]ed|[xy])[ -]"
        r"coordinates?\b"
        r"|\b(?:by|from|in|of|on|to|using|via|with)\s+coordinates\b"
        r"|\bcoordinates\s+(?:are|given|indicate|of|provided|show|suggest)\b"
        r"|\bcoordinates?\s*[:=\[(]"
    ),
    "numbers of a box": r"\[\s*-?\d*\.?\d+(?:\s*,\s*-?\d*\.?\d+)*\s*\]|\(\s*(?:\d*\.\d+\s*,\s*)+\d*\.\d+\s*\)",
    "what was given": (
        rf"\b(?:the|this|these|those|your|from|on|by|to|with|any|no|all)\s+{_GIVEN}\s+(?:\w+\s+)?{_SOURCE}\b"
        rf"|(?:^|[.!?\n]\s*){_GIVEN}\s+{_SOURCE}\b"
        rf"|\b(?:according to|based on|judging from)\s+(?:the\s+)?{_SOURCE}\s+{_GIVEN}\b"
        rf"|\b(?:according to|based on|judging from)\s+(?:the|these|those)\s+(?:\w+\s+)?"
        r"(?:annotations?|data|descriptions?|sentences?|text)\b(?!\s+(?:at|in|on|printed|written)\b)"
        r"|\b(?:the|these|those|image|scene|five)\s+(?:descriptions?|sentences?)\s+"
        r"(?:describes?|does not|do not|doesn't|don't|indicates?|mentions?|says?|states?|suggests?)\b"
    ),
    "being a model": (
        r"\bas an AI\b|\blanguage model\b"
        r"|\b(?:can ?not|can't|unable to)\s+(?:access|see|view)\s+(?:any|the|this|your)\s+(?:image|photo|picture)\b"
    ),
}
_LEAKS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _PATTERNS.items()}


def find_leak(text: str) -> str | None:
    """Returns the first thing in a text that betrays its source, "captions: 'the captions'"; None for a clean text."""
    for name, pattern in _LEAKS.items():
        match = pattern.search(text)
        if match:
            return f"{name}: {match[0].strip()!r}"
    return None
