"""What was said in a conversation, as it is shown again, resumed and exported."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from edge_llava.cli.conversation.shown_image import ShownImage
from edge_llava.demo import find_image
from edge_llava.errors import ImageError

if TYPE_CHECKING:
    from edge_llava.runtime.dialogue.messages import Message

_LONGEST_SIDE = 1024  # pixels of an image in an HTML file
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; max-height: 24rem; border-radius: .5rem; }}
h1 {{ font-size: 1.1rem; }}
p {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.user {{ font-weight: 600; margin-top: 2rem; }}
.system {{ opacity: .7; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question about images, with its answer."""

    question: str
    images: tuple[ShownImage, ...]
    answer: str


@dataclass(frozen=True)
class Transcript:
    """A conversation.

    Attributes:
        bundle: Name of the bundle that answered last.
        system: The user's system text; "" where the bundle's own is used.
        turns: In order.
    """

    bundle: str
    system: str
    turns: tuple[AnsweredQuestion, ...]

    def to_markdown(self, folder: Path) -> str:
        """The conversation as Markdown for a file in `folder`; images are links to their files, or names without."""
        system = [f"**System:** {self.system}\n"] if self.system else []
        return "\n".join([*system, *(_turn_to_markdown(turn, folder) for turn in self.turns)])

    def to_html(self) -> str:
        """The conversation as a page that needs no other file: images are in it, made smaller, without metadata."""
        system = f'<p class="system">{html.escape(self.system)}</p>\n' if self.system else ""
        body = system + "\n".join(map(_turn_to_html, self.turns))
        return _PAGE.format(title=html.escape(f"Conversation with {self.bundle}"), body=body)


def to_messages(system: str, turns: Sequence[AnsweredQuestion]) -> list[Message]:
    """What `Session.resume` takes.

    Raises:
        ImageError: If an image cannot be opened again.
    """
    from edge_llava.runtime.dialogue.messages import Message

    messages = [Message("system", system)] if system else []
    for turn in turns:
        images = tuple(image.open() for image in turn.images)
        messages += [Message("user", turn.question, images), Message("assistant", turn.answer)]
    return messages


def _turn_to_markdown(turn: AnsweredQuestion, folder: Path) -> str:
    images = "".join(f"{_image_to_markdown(image, folder)}\n\n" for image in turn.images)
    return f"{images}**User:** {turn.question}\n\n**Assistant:** {turn.answer}\n"


def _image_to_markdown(image: ShownImage, folder: Path) -> str:
    if image.file is None or image.is_embedding or find_image(image.name) is not None or not image.file.is_file():
        return f"({Path(image.name).name})"
    file = image.file.resolve()
    try:
        target = Path(os.path.relpath(file, folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return f"![]({file.as_uri()})"
    return f"![]({quote(os.fsencode(target))})"


def _turn_to_html(turn: AnsweredQuestion) -> str:
    images = "".join(map(_image_to_html, turn.images))
    question, answer = html.escape(turn.question), html.escape(turn.answer)
    return f'{images}<p class="user">{question}</p>\n<p>{answer}</p>\n'


def _image_to_html(image: ShownImage) -> str:
    from edge_llava.runtime.vision.image import Image

    name = html.escape(Path(image.name).name, quote=True)
    try:
        content = image.open()
    except ImageError:
        return f"<p>({name}: the file is gone or has changed)</p>\n"
    if not isinstance(content, Image):
        return f"<p>({name}: an embedding)</p>\n"
    small, file = content.pixels.copy(), io.BytesIO()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    small.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{name}" src="data:image/jpeg;base64,{data}">\n'
