"""Draws a contact sheet: sample images, one question and its answer under each, as one PNG. Needs Pillow only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from edge_llava.errors import DataError, ImageError
from edge_llava.home.files import atomic_file
from edge_llava.home.image_files.opening import open_image
from edge_llava.training.instructions.conversations import Conversation
from edge_llava.training.instructions.statistics import find_type

_COLUMNS, _N_SAMPLES = 4, 12
_WIDTH, _IMAGE_HEIGHT, _GAP = 280, 210, 20  # pixels: a cell, the image in it, and the space around it
_FONT_SIZE, _LINE_HEIGHT = 14, 19
_MAX_QUESTION_LINES, _MAX_ANSWER_LINES = 4, 9
_MAX_CHARACTERS = 1000  # more than fit into those lines, even of the narrowest letters
_PAPER, _INK, _ASKED, _FADED, _EMPTY = "white", "#202020", "#1a4f8a", "#808080", "#e8e8e8"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_contact_sheet(path: Path, conversations: Sequence[Conversation], images: Path, seed: int = 0) -> int:
    """Draws sample conversations, of all types in turn.

    Args:
        path: PNG file, written by rename.
        conversations: What to choose from; conversations without an image are skipped.
        images: Directory of the images.
        seed: Decides which conversations are shown.

    Returns:
        How many of the images could not be read; a grey field is shown in their place.

    Raises:
        DataError: If no conversation is about an image, or the file cannot be written.
    """
    samples = choose_samples([c for c in conversations if c.image is not None], seed)
    if not samples:
        raise DataError("a contact sheet needs conversations about images, and there are none.")
    font = ImageFont.load_default(_FONT_SIZE)
    opened = [_open(images / str(sample.image)) for sample in samples]
    cells = [_draw_cell(sample, image, font) for sample, image in zip(samples, opened, strict=True)]
    _save(_arrange(cells), path)
    return opened.count(None)


def choose_samples(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Chooses up to twelve, the types in turn, and no image twice while there are others."""
    shuffled = list(conversations)
    random.Random(seed).shuffle(shuffled)
    by_type: dict[str, list[Conversation]] = {}
    for conversation in shuffled:
        by_type.setdefault(find_type(conversation), []).append(conversation)
    chosen: list[Conversation] = []
    while len(chosen) < min(_N_SAMPLES, len(shuffled)):
        for name in sorted(by_type):
            shown = {conversation.image for conversation in chosen}
            fresh = [conversation for conversation in by_type[name] if conversation.image not in shown]
            if by_type[name] and len(chosen) < _N_SAMPLES:
                chosen.append((fresh or by_type[name])[0])
                by_type[name].remove(chosen[-1])
    return chosen


def _open(path: Path) -> Image.Image | None:
    """Opens an image and makes it small; returns None if it cannot be read."""
    try:
        image = open_image(path)
    except (ImageError, OSError):
        return None
    return ImageOps.contain(image, (_WIDTH, _IMAGE_HEIGHT))


def _draw_cell(sample: Conversation, image: Image.Image | None, font: _Font) -> Image.Image:
    turn = sample.turns[0]
    number = f", 1 of {len(sample.turns)} turns" if len(sample.turns) > 1 else ""
    heading = _wrap(f"{sample.id} {find_type(sample)}{number}", font, 1)
    question = _wrap(turn.question, font, _MAX_QUESTION_LINES)
    answer = _wrap(turn.answer, font, _MAX_ANSWER_LINES)
    n_lines = len(heading) + len(question) + len(answer)
    cell = Image.new("RGB", (_WIDTH, _IMAGE_HEIGHT + (n_lines + 1) * _LINE_HEIGHT), _PAPER)
    drawing = ImageDraw.Draw(cell)
    if image is None:
        drawing.rectangle((0, 0, _WIDTH - 1, _IMAGE_HEIGHT - 1), fill=_EMPTY)
        drawing.text((_GAP, _IMAGE_HEIGHT // 2), "this image cannot be read", fill=_FADED, font=font)
    else:
        cell.paste(image, ((_WIDTH - image.width) // 2, (_IMAGE_HEIGHT - image.height) // 2))
    colours = [_FADED] * len(heading) + [_ASKED] * len(question) + [_INK] * len(answer)
    for index, (line, colour) in enumerate(zip(heading + question + answer, colours, strict=True)):
        drawing.text((0, _IMAGE_HEIGHT + 6 + index * _LINE_HEIGHT), line, fill=colour, font=font)
    return cell


def _wrap(text: str, font: _Font, max_lines: int) -> list[str]:
    """Breaks text into lines no wider than a cell; what does not fit ends in dots."""
    lines = [""]
    for word in text[:_MAX_CHARACTERS].split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [_cut(line, font) for line in lines if line]
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], _cut(f"{lines[max_lines - 1]} ...", font)]
    return lines


def _cut(line: str, font: _Font) -> str:
    if font.getlength(line) <= _WIDTH:
        return line
    while line and font.getlength(f"{line}...") > _WIDTH:
        line = line[:-1]
    return f"{line}..."


def _arrange(cells: list[Image.Image]) -> Image.Image:
    rows = [cells[index : index + _COLUMNS] for index in range(0, len(cells), _COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    n_columns = len(rows[0])
    size = n_columns * (_WIDTH + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1)
    sheet = Image.new("RGB", size, _PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for index, cell in enumerate(row):
            sheet.paste(cell, (_GAP + index * (_WIDTH + _GAP), top))
        top += height + _GAP
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error
