"""A teacher that is a language model on a server: it reads captions and boxes, not images."""

from __future__ import annotations

from edge_llava.remote.chat_client import ChatClient
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.prompts import build_messages
from edge_llava.training.instructions.reply import Rejection
from edge_llava.training.instructions.teacher import TeacherReply


class ChatTeacher:
    """Asks through a client, which it does not close. May be shared by threads."""

    def __init__(self, client: ChatClient, temperature: float | None = None) -> None:
        """A temperature of None leaves it to the server."""
        self._client, self._temperature = client, temperature

    @property
    def name(self) -> str:
        """Model and address."""
        return self._client.name

    def reply(self, image: AnnotatedImage, response_type: str) -> TeacherReply:
        """See `Teacher.reply`."""
        reply = self._client.ask(build_messages(image, response_type), temperature=self._temperature)
        fault = None if reply.fault is None else Rejection(reply.fault.kind, reply.fault.detail)
        return TeacherReply(reply.text, fault, reply.prompt_tokens, reply.completion_tokens)
