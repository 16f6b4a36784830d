"""Text that is whole: a str may hold halves of characters (surrogates), which no tokenizer takes."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Whether a text holds whole characters only."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
