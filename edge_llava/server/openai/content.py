"""The content of a message: a text, or parts of several types."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, Tag

from edge_llava.server.openai.conversation import Part
from edge_llava.server.openai.faults import tag
from edge_llava.server.openai.fields import EMPTY, NoEffect, Text, by_kind, by_word, only
from edge_llava.server.openai.image_parts import IMAGE_TYPES, ImagePart, StrayImages, UntypedImage, find_images
from edge_llava.server.openai.request_model import RequestModel

MAX_PARTS = 256
_TextType = Literal["text", "input_text", "output_text"]
_PassedType = Literal[
    "thinking", "redacted_thinking", "reasoning", "tool_use", "tool_result", "tool_call", "function_call"
]


class TextPart(StrayImages):
    """A text."""

    type: _TextType | None = None
    text: Text | None


class RefusalPart(StrayImages):
    """A text with which an assistant refused to answer."""

    type: Literal["refusal"]
    refusal: Text | None


class PassedPart(RequestModel):
    """Another model's reasoning or call, which is left out of the history."""

    type: Annotated[
        _PassedType,
        NoEffect(message="'{place}' has a type that is not supported; use texts and images", code="unsupported_value"),
    ]


_KINDS = {
    **dict.fromkeys(get_args(_TextType), "text"),
    "refusal": "refusal",
    **dict.fromkeys(IMAGE_TYPES, "image"),
    **dict.fromkeys(get_args(_PassedType), "passed"),
}
_STRING, _NULL, _UNTYPED = tag("string"), tag("null"), tag("untyped")
_TAGS = {name: tag(kind) for name, kind in _KINDS.items()}


def _find_tag(part: Any) -> str | None:
    """Finds the type of a part. Some clients send plain strings, leave out the type, or send null for a text."""
    if not isinstance(part, dict):
        return _STRING if isinstance(part, str) else _NULL if part is None else None
    kind = part.get("type")
    if kind is None:
        has_image = "image_url" in part and ("text" not in part or part["image_url"] not in EMPTY)
        if has_image and part.get("text") is None:
            return _UNTYPED
        kind = "text" if "text" in part else None
    return _TAGS.get(kind) if isinstance(kind, str) else None


def _find_text_tag(part: Any) -> str | None:
    """Like `_find_tag`, for messages without images."""
    found = _find_tag(part)
    return None if found in (tag("image"), _UNTYPED) else found


_MUST = f"'{{place}}' must be one of {', '.join(get_args(_TextType))}, refusal"
_TEXT_TYPES = by_word("type", _find_text_tag, f"{_MUST}; images belong in messages of the user", "unsupported_value")
_TYPES = by_word("type", _find_tag, f"{_MUST}, {', '.join(IMAGE_TYPES)}", "unsupported_value")
_Text = (
    Annotated[Text, Tag(tag("string"))]
    | Annotated[None, Tag(tag("null"))]
    | Annotated[TextPart, Tag(tag("text"))]
    | Annotated[RefusalPart, Tag(tag("refusal"))]
    | Annotated[PassedPart, only("type"), Tag(tag("passed"))]
)
_Image = Annotated[ImagePart, Tag(tag("image"))] | Annotated[UntypedImage, Tag(_UNTYPED)]
_PARTS = "a string or an array of parts"
TextContent = Annotated[
    Annotated[Text, Tag(tag("string"))]
    | Annotated[list[Annotated[_Text, _TEXT_TYPES]], Field(max_length=MAX_PARTS), Tag(tag("array"))],
    by_kind(_PARTS),
]
Content = Annotated[
    Annotated[Text, Tag(tag("string"))]
    | Annotated[list[Annotated[_Text | _Image, _TYPES]], Field(max_length=MAX_PARTS), Tag(tag("array"))],
    by_kind(_PARTS),
]
AnyContent = str | list[Any]
"""`TextContent` and `Content` after they were parsed."""


def read_content(content: AnyContent, place: str) -> list[Part] | None:
    """The texts that are not empty, and the images; None if nothing remains without the parts that are left out.

    Args:
        content: The content of a message.
        place: Its place in the request.
    """
    if isinstance(content, str):
        return [content] if content else []
    parts: list[Part] = []
    for n, part in enumerate(content):
        if isinstance(part, (TextPart, RefusalPart)):
            part = part.text if isinstance(part, TextPart) else part.refusal
        if isinstance(part, str):
            parts += [part] if part else []
        elif part is not None and not isinstance(part, PassedPart):
            parts.append(next(find_images(part, f"{place}[{n}]")))
    is_passed = any(isinstance(part, PassedPart) for part in content)
    return None if is_passed and not parts else parts
