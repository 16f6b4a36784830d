"""Writes a conversation to a file of the user's: Markdown, or one HTML page with its images inside."""

from __future__ import annotations

import time
from pathlib import Path

from edge_llava.cli.conversation.pasted_paths import expand_home, unquote
from edge_llava.cli.conversation.transcript import Transcript
from edge_llava.cli.display import note

_MARKDOWN, _HTML = (".md", ".markdown"), (".html", ".htm")


def save_transcript(transcript: Transcript, name: str) -> None:
    """Writes the conversation as the suffix says, and notes where; an existing file stays.

    Args:
        transcript: The conversation.
        name: What the user typed, perhaps in quotes; "" for a name made from the time.
    """
    path = Path(expand_home(unquote(name) or time.strftime("edge-llava-%Y%m%d-%H%M%S.md")))
    suffix = path.suffix.lower()
    if suffix not in (*_MARKDOWN, *_HTML):
        note(f"{path} is not saved: end the name with .md for Markdown, or with .html for a page with its images.")
        return
    if not transcript.turns:
        note("nothing was said yet")
        return
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(transcript.to_html() if suffix in _HTML else transcript.to_markdown(path.parent))
    except FileExistsError:
        note(f"{path} exists already; name another file")
    except OSError as error:
        note(f"{path} cannot be written: {error.strerror}")
    else:
        note(f"saved to {path}")
