"""Answers as a terminal shows them: words are not cut at its edge. A pipe gets the text unchanged."""

from __future__ import annotations

import shutil
import sys

import click

from edge_llava.cli.printable import printable

_MARGIN = 20  # cells; so far from the edge, a word is shown before it is complete


class AnswerWriter:
    """Writes one answer to stdout as it is generated."""

    def __init__(self) -> None:
        self._wrapping = WordWrapping() if sys.stdout.isatty() else None

    def write(self, text: str) -> None:
        """Writes the next part of the answer."""
        if self._wrapping is not None:
            text = self._wrapping.feed(printable(text), shutil.get_terminal_size().columns)
        click.echo(text, nl=False)
        sys.stdout.flush()

    def end(self) -> None:
        """Writes what was held back, and ends the line."""
        click.echo(self._wrapping.rest(shutil.get_terminal_size().columns) if self._wrapping is not None else "")


class WordWrapping:
    """Breaks lines between words while a text arrives in parts.

    Near the edge, a word is held back until it is complete. A word that is longer than a line is cut by the terminal.
    """

    def __init__(self) -> None:
        self._column = 0  # cells of the line that are taken
        self._blanks, self._word = "", ""  # not shown yet
        self._is_begun = False  # whether a part of the word is shown

    def feed(self, text: str, width: int) -> str:
        """Takes a part of the text.

        Args:
            text: Without control characters except line feeds and tabs.
            width: Cells of a line.

        Returns:
            What to show now.
        """
        shown = ""
        for character in text:
            if character in " \t":
                shown += self._place(width)
                self._blanks, self._is_begun = self._blanks + character, False
            elif character == "\n":
                shown += self._place(width) + "\n"
                self._column, self._blanks, self._is_begun = 0, "", False
            elif _count_cells(character) > 1:  # these scripts have no blanks between words
                shown += self._place(width)
                self._word, self._is_begun = character, False
                shown += self._place(width)
            else:
                self._word += character
        if self._column + _count_cells(self._blanks + self._word) + _MARGIN <= width:
            shown += self._place(width)
        return shown

    def rest(self, width: int) -> str:
        """What is still held back at the end of the text."""
        return self._place(width)

    def _place(self, width: int) -> str:
        if not self._word:
            return ""
        n_cells = _count_cells(self._blanks + self._word)
        if self._column and self._column + n_cells > width and not self._is_begun:
            shown, self._column = "\n" + self._word, _count_cells(self._word)
        else:
            shown, self._column = self._blanks + self._word, self._column + n_cells
        if self._column > width:
            self._column %= width
        self._blanks, self._word, self._is_begun = "", "", True
        return shown


def _count_cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text.replace("\t", " " * 8))
