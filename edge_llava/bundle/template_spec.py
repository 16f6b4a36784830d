"""A conversation template as a bundle records it: special tokens as ids, text to be tokenized with the user's words.

    "opening": [151644, "user\\n"]

Ids leave nothing to the device: no text of a template is searched for special tokens, and a user's words between two of
them are tokenized as in training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_llava.bundle.json_fields import JsonFields
from edge_llava.bundle.templates import TEMPLATES, Template, with_image_marks

Piece = int | str
Pieces = tuple[Piece, ...]
_SYSTEM = "\0"  # stands for a system text while a template is taken apart
_MAX_PIECES = 256
_PARTS = (
    "opening", "before_system", "after_system", "image_before", "image_after", "before_question", "after_question",
    "after_past_question", "before_answer", "between_turns",
)  # fmt: skip


@dataclass(frozen=True)
class TemplateSpec:
    """What stands around a conversation.

    Attributes:
        name: Where it comes from, for people: a key of `TEMPLATES`, or "chat_template".
        opening: From the start (BOS excluded) to the first question or its images.
        before_system, after_system: What takes the place of `opening` around a system text of the user's.
        image_before, image_after: Around each image.
        before_question: Between the images of a question, if it has any, and its text.
        after_question: From the end of a question to where the model writes.
        after_past_question: The same once another question comes after its answer.
        before_answer: What stood before an answer's text in training; the model writes it itself.
        between_turns: From the end of an answer to the next question or its images.
        stops: Texts that end an answer; tokens that do are `LanguageSpec.end_ids`.
        joins_text: Whether `between_turns` continues in the middle of a text.
        system: The system text in `opening`, "" if there is none.
    """

    name: str
    opening: Pieces
    before_system: Pieces
    after_system: Pieces
    image_before: Pieces
    image_after: Pieces
    before_question: Pieces
    after_question: Pieces
    after_past_question: Pieces
    before_answer: Pieces
    between_turns: Pieces
    stops: tuple[str, ...]
    joins_text: bool
    system: str

    def open_with(self, system: str) -> Pieces:
        """The opening with a system text of the user's; "" keeps the template's own."""
        return (*self.before_system, system, *self.after_system) if system else self.opening

    def pieces(self) -> Iterable[Piece]:
        """Everything that stands in it."""
        return (piece for part in _PARTS for piece in getattr(self, part))


def describe_template(template: Template, specials: Mapping[str, int]) -> TemplateSpec:
    """Takes a template apart.

    Args:
        template: Its text.
        specials: Special tokens of the vocabulary by their text. Texts of special tokens that are not among them stay
            text, as in bundles of format version 1, whose specials the device looks for.
    """

    def split(text: str) -> Pieces:
        return split_pieces(text, specials)

    before, _, after = template.with_system(_SYSTEM).opening.partition(_SYSTEM)
    return TemplateSpec(
        name=template.name,
        opening=split(template.opening),
        before_system=split(before),
        after_system=split(after),
        image_before=split(template.image_before),
        image_after=split(template.image_after),
        before_question=split(template.before_question),
        after_question=split(template.after_question),
        after_past_question=split(
            template.after_question if template.after_past_question is None else template.after_past_question
        ),
        before_answer=split(template.before_answer),
        between_turns=split(template.between_turns),
        stops=(template.stop,),
        joins_text=template.joins_text,
        system=template.system,
    )


def split_pieces(text: str, specials: Mapping[str, int]) -> Pieces:
    """Splits a text at special tokens, of which the longest that begins at a place counts."""
    if not text:
        return ()
    if not specials:
        return (text,)
    longest_first = sorted(specials, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    return tuple(specials.get(part, part) for part in parts if part)


def read_template(fields: JsonFields, key: str) -> TemplateSpec:
    """The template of a manifest; its faults are noted in `fields`."""
    inner = fields.object(key)
    return TemplateSpec(
        name=inner.text("name"),
        opening=_read_pieces(inner, "opening"),
        before_system=_read_pieces(inner, "before_system"),
        after_system=_read_pieces(inner, "after_system"),
        image_before=_read_pieces(inner, "image_before"),
        image_after=_read_pieces(inner, "image_after"),
        before_question=_read_pieces(inner, "before_question"),
        after_question=_read_pieces(inner, "after_question"),
        after_past_question=_read_pieces(inner, "after_past_question"),
        before_answer=_read_pieces(inner, "before_answer"),
        between_turns=_read_pieces(inner, "between_turns"),
        stops=inner.texts("stops"),
        joins_text=inner.boolean("joins_text"),
        system=inner.any_text("system"),
    )


def read_named_template(fields: JsonFields, key: str, *, image_marks: bool) -> TemplateSpec:
    """The template of a manifest of format version 1, which records its name.

    Args:
        fields: The section.
        key: The field with the name.
        image_marks: Whether <im_start> and <im_end> stand around every image, as v0 was trained.
    """
    name = fields.text(key, tuple(TEMPLATES))
    template = TEMPLATES.get(name, TEMPLATES["llava_v1"])
    return describe_template(with_image_marks(template) if image_marks else template, {})


def _read_pieces(fields: JsonFields, key: str) -> Pieces:
    return fields.pieces(key, _MAX_PIECES)
