"""The forms in which clients send images in a message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, Tag, ValidationInfo, model_validator

from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.openai.faults import tag
from edge_llava.server.openai.fields import IF_STRICT, Refused, Text, by_kind, present
from edge_llava.server.openai.request_model import RequestModel, fault, faults_at, is_strict

_DETAILS = ("auto", "low", "high", "original")
_STRICT_DETAIL: dict[str, Any] = {IF_STRICT: {"enum": [None, *_DETAILS]}}
_Stray = Annotated[Any, Refused(message="'{place}' is not read here: send images as parts of 'content'")]
ImageType = Literal["image_url", "input_image", "image", "image_base64", "file", "input_file", "media"]
# the usual field of an image of a type
_USUAL = {"input_image": "image_url", "input_file": "file_data", "media": "data"}
_IMAGES = ("image_url", "data", "source", "image", "url", "base64", "image_base64", "file", "file_data", "file_url")
_DATA = ("data", "base64", "image_base64", "file_data")  # fields that never contain a web address


class StrayImages(RequestModel):
    """Fields in which some clients put images, and which are refused: ignoring them would answer another question."""

    image: _Stray = None
    image_url: _Stray = None
    image_data: _Stray = None
    image_base64: _Stray = None
    attachments: _Stray = None
    experimental_attachments: _Stray = None


def _check_detail(value: Any, info: ValidationInfo) -> Any:
    if is_strict(info) and value is not None and value not in _DETAILS:
        raise fault("invalid_value", f"'{{place}}' must be one of {', '.join(map(repr, _DETAILS))}")
    return value


class _Described(RequestModel):
    """Fields of an image without effect: its content decides its type, and LLaVA sees all of it."""

    type: Any = None
    detail: Annotated[Any, AfterValidator(_check_detail), Field(json_schema_extra=_STRICT_DETAIL)] = None
    mimeType: Any = None
    mediaType: Any = None
    media_type: Any = None
    mime_type: Any = None
    format: Any = None
    filename: Any = None

    @model_validator(mode="after")
    def _check_image(self) -> _Described:
        if next(find_images(self), None) is None:
            raise self._fault()
        return self

    def _fault(self) -> Exception:
        return fault("missing_required_parameter", "'{place}' contains no image in a known form")


class ImageHolder(_Described):
    """An object around an image: OpenAI's (url, file_data) or Anthropic's (data, url)."""

    model_config = ConfigDict(json_schema_extra={"anyOf": present("url", "data", "file_data")})

    url: Text | None = None
    data: Text | None = None
    file_data: Text | None = None


_Address = Annotated[
    Annotated[Text, Tag(tag("string"))] | Annotated[ImageHolder, Tag(tag("object"))], by_kind("a string or an object")
]


class ImagePart(_Described):
    """An image, or a file that is one, as in OpenAI's APIs, MCP, Anthropic, Vercel's AI SDK, transformers, LangChain.

    If several fields contain an image, the first one counts.
    """

    model_config = ConfigDict(json_schema_extra={"anyOf": present(*_IMAGES)})

    type: ImageType
    image_url: _Address | None = None
    data: Text | None = None
    source: ImageHolder | None = None
    image: _Address | None = None
    url: Text | None = None
    base64: Text | None = None
    image_base64: Text | None = None
    file: ImageHolder | None = None
    file_data: Text | None = None
    file_url: Text | None = None

    def _fault(self) -> Exception:
        return faults_at({_USUAL.get(self.type, self.type): "missing"})


class UntypedImage(_Described):
    """OpenAI's form of an image without the type."""

    type: None = None
    image_url: _Address


IMAGE_TYPES: tuple[str, ...] = get_args(ImageType)


def find_images(part: RequestModel, place: str = "") -> Iterator[ImageAddress]:
    """The images of a part; the one that counts comes first.

    Args:
        part: A part for an image.
        place: Its place in the request.
    """
    for name, value in part.__dict__.items():
        if name in _Described.model_fields:
            continue
        if isinstance(value, str):
            yield ImageAddress(value, f"{place}.{name}", may_fetch=name not in _DATA)
        elif isinstance(value, RequestModel):
            yield from find_images(value, f"{place}.{name}")
