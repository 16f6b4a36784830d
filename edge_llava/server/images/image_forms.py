"""The forms in which clients send images: one table, one line for each."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.server.openai.request_fields import RequestFields

_DETAILS = ("auto", "low", "high", "original")
# what may stand beside an image without effect: the content says which type it is, and LLaVA sees all of it
_DESCRIPTIONS = ("type", "detail", "mimeType", "mediaType", "media_type", "mime_type", "format", "filename")


# where some clients put images, and where they are not read: ignoring them would answer another question
STRAY_IMAGES = ("image", "image_url", "image_data", "image_base64", "attachments", "experimental_attachments")


@dataclass(frozen=True)
class ImageAddress:
    """An image as a client sent it.

    Attributes:
        url: A data: URI, base64, or an address; not yet looked at.
        param: Where it stands in the request.
        may_fetch: Whether it may be an address of the web.
    """

    url: str
    param: str
    may_fetch: bool = True


@dataclass(frozen=True)
class _Form:
    """A form of an image.

    Attributes:
        part: The type of the part.
        path: Where in the part the image stands.
        may_fetch: As `ImageAddress.may_fetch`.
    """

    part: str
    path: tuple[str, ...]
    may_fetch: bool = True


_FORMS = (
    _Form("image_url", ("image_url", "url")),  # OpenAI, chat completions
    _Form("image_url", ("image_url",)),  # the same as a plain string: llama-cpp-python, LangChain
    _Form("input_image", ("image_url",)),  # OpenAI, Responses
    _Form("input_image", ("image_url", "url")),
    _Form("image", ("data",), may_fetch=False),  # MCP
    _Form("image", ("source", "data"), may_fetch=False),  # Anthropic
    _Form("image", ("source", "url")),
    _Form("image", ("image",)),  # Vercel's AI SDK, transformers
    _Form("image", ("image", "url")),
    _Form("image", ("url",)),  # transformers
    _Form("image", ("base64",), may_fetch=False),
    _Form("image", ("image_url", "url")),
    _Form("image", ("image_url",)),
    _Form("image_base64", ("image_base64",), may_fetch=False),
    # files, of which only images are read
    _Form("file", ("file", "file_data"), may_fetch=False),  # OpenAI, chat completions
    _Form("file", ("data",), may_fetch=False),  # Vercel's AI SDK
    _Form("file", ("url",)),
    _Form("input_file", ("file_data",), may_fetch=False),  # OpenAI, Responses
    _Form("input_file", ("file_url",)),
    _Form("media", ("data",), may_fetch=False),  # LangChain for Gemini
)
IMAGE_PARTS = tuple(dict.fromkeys(form.part for form in _FORMS))


def read_image_part(part: RequestFields, kind: str) -> ImageAddress | None:
    """The image of a part.

    Args:
        part: The part.
        kind: Its type, one of `IMAGE_PARTS`.

    Returns:
        None if there is no image; that is noted in the request's faults.
    """
    forms = [form for form in _FORMS if form.part == kind]
    part.ignore_unknown((*_DESCRIPTIONS, *(form.path[0] for form in forms)))
    for form in forms:
        holder = part if len(form.path) == 1 else part.object_if_any(form.path[0])
        key = form.path[-1]
        if holder is None or not holder.has(key) or isinstance(holder.raw(key), dict):
            continue
        if holder is not part:
            holder.ignore_unknown((*_DESCRIPTIONS, key))
        if holder.is_strict:
            holder.text("detail", _DETAILS)
        text = holder.text(key)
        return None if text is None else ImageAddress(text, holder.place(key), form.may_fetch)
    holder, path = part, forms[0].path
    while len(path) > 1 and (inside := holder.object_if_any(path[0])) is not None:
        holder, path = inside, path[1:]
    if holder.require(path[0]):
        holder.note(path[0], "contains no image in a form that is known here", "invalid_type")
    return None


def refuse_stray_images(fields: RequestFields) -> None:
    """Notes the images of an object that is not a part for one."""
    for key in STRAY_IMAGES:
        if fields.raw(key) not in (None, "", [], {}):
            fields.note(key, "is not read here: send images as parts of 'content'", "unsupported_parameter")


def read_image_list(message: RequestFields, at_most: int) -> list[ImageAddress]:
    """The images of Ollama's form: a list of base64 texts in a message, beside its content."""
    return [
        ImageAddress(text, f"{message.place('images')}[{index}]", may_fetch=False)
        for index, text in enumerate(message.texts("images", at_most))
    ]
