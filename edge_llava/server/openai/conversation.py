"""The turns of a conversation as a client sent it: texts, and images that were not opened yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Literal

from edge_llava.server.http.limits import Limits
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.openai.faults import Faults

Role = Literal["system", "user", "assistant"]
Part = str | ImageAddress


@dataclass(frozen=True)
class ChatMessage:
    """One turn: its texts and images, in order.

    Attributes:
        role: The author's role.
        parts: Texts that are not empty, and images.
    """

    role: Role
    parts: tuple[Part, ...]

    @property
    def images(self) -> tuple[ImageAddress, ...]:
        """The images of the turn."""
        return tuple(part for part in self.parts if isinstance(part, ImageAddress))

    @property
    def text(self) -> str:
        """The texts of the turn, each on its own line."""
        return self._lay_out()[0]

    @property
    def places(self) -> tuple[int, ...]:
        """See `runtime.dialogue.messages.Message.places`: images with text between them keep their places."""
        return self._lay_out()[1]

    def _lay_out(self) -> tuple[str, tuple[int, ...]]:
        if not self._is_mixed():
            return "\n".join(part for part in self.parts if isinstance(part, str)), ()
        text, places = "", []
        for part, following in zip_longest(self.parts, self.parts[1:]):
            if isinstance(part, str):
                text += part if following is None else f"{part}\n"
            else:
                places.append(len(text))
        return text, tuple(places)

    def _is_mixed(self) -> bool:
        at = [index for index, part in enumerate(self.parts) if isinstance(part, ImageAddress)]
        between = self.parts[at[0] : at[-1]] if at else ()
        return any(isinstance(part, str) and not part.isspace() for part in between)


def arrange(found: Sequence[ChatMessage], place: str, limits: Limits, faults: Faults) -> tuple[ChatMessage, ...]:
    """Arranges a conversation: at most one system message, then user and assistant in turn.

    Neighbouring messages of one role are joined, and all system messages become the first message. The assistant's
    greeting may come first, and a message that it continues may come last. If there are only system messages, the last
    one is the question.

    Args:
        found: The messages that are not empty.
        place: Their place in the request: "messages".
        limits: Limits of the whole conversation.
        faults: Collects what is wrong with it.
    """
    n_chars = sum(len(part) for message in found for part in message.parts if isinstance(part, str))
    n_images = sum(len(message.images) for message in found)
    if n_chars > limits.text_chars:
        message = f"'{{place}}' contains {n_chars} characters; the limit is {limits.text_chars}"
        faults.note(place, message, "string_too_long")
    if n_images > limits.n_images:
        message = f"'{{place}}' contains {n_images} images; the limit is {limits.n_images}"
        faults.note(place, message, "too_many_images")
    if found and all(message.role == "system" for message in found):
        found = [*found[:-1], ChatMessage("user", found[-1].parts)]
    if not any(message.role == "user" for message in found):
        faults.note(place, "'{place}' must contain a message of the user")
    return _join_neighbours([message for message in found if message.role == "system"]) + _join_neighbours(
        [message for message in found if message.role != "system"]
    )


def _join_neighbours(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    return tuple(
        ChatMessage(role, tuple(part for message in neighbours for part in message.parts))
        for role, neighbours in groupby(messages, key=lambda message: message.role)
    )
