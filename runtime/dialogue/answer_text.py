"""Turning tokens into text while they arrive: whole characters only, and nothing of a stop text ever shown."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence

_INSIDE = sys.maxsize


class AnswerText:
    """The text of one answer as it grows.

    A character whose bytes are spread over tokens appears when it is complete. Text that could be the beginning of a
    stop text is held back until it is decided. White space before the first word is dropped, as LLaVA strips answers.

    Attributes:
        shown: Everything that was returned so far.
        stopped: Whether a stop text was found; nothing may be pushed after that.
    """

    def __init__(self, stop: Sequence[str], *, keeps_space: bool = False) -> None:
        """White space before the first word is kept where the answer continues a given text."""
        self._stop, self._n_longest = tuple(stop), max(map(len, stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""  # all decoded text, leading white space included
        self._n_shown = 0
        self._started = keeps_space
        self._ends: list[int] = []  # length of _text after each token; _INSIDE where a character is incomplete
        self.shown = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Adds a token's bytes and returns the text that is now safe to show."""
        search_start = max(0, len(self._text) - self._n_longest)
        self._text += self._decoder.decode(piece)
        self._ends.append(_INSIDE if self._decoder.getstate()[0] else len(self._text))
        found = [start for stop in self._stop if (start := self._text.find(stop, search_start)) >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]
            return self._show(len(self._text))
        return self._show(len(self._text) - max(map(self._n_begun, self._stop), default=0))

    def finish(self) -> str:
        """Returns what was held back; call it when the answer ends without a stop text."""
        if not self.stopped:
            self._text += self._decoder.decode(b"", final=True)
        return self._show(len(self._text))

    def split(self) -> tuple[int, str]:
        """How many tokens, from the first on, make up the text or its largest possible part, and the text after them.

        The latter is "" unless the last token of the text also began a stop text.
        """
        if not self.stopped:
            return len(self._ends), ""
        n_whole = max((n for n, end in enumerate(self._ends, 1) if end <= len(self._text)), default=0)
        return n_whole, self._text[self._ends[n_whole - 1] if n_whole else 0 :]

    def _n_begun(self, stop: str) -> int:
        """How many characters at the end of the text could be the beginning of a stop text."""
        n_most = min(len(stop) - 1, len(self._text))
        return next((n for n in range(n_most, 0, -1) if self._text.endswith(stop[:n])), 0)

    def _show(self, end: int) -> str:
        shown, self._n_shown = self._text[self._n_shown : end], end
        if not self._started:
            shown = shown.lstrip()
            self._started = bool(shown)
        self.shown += shown
        return shown
