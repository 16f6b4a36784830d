"""A teacher's server on this machine, and annotated images to ask it about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_server import Answer, Request, Server

from edge_llava.training.instructions.annotation import AnnotatedImage, Box


class TeachersServer(Server):
    """A server that can teach."""

    def __init__(self) -> None:
        super().__init__()
        self.behave = lambda request, index: self.good(request)

    def good(self, request: Request) -> Answer:
        """A valid completion."""
        return self.say(good_reply(request))


def good_reply(request: Request) -> str:
    """A reply of the type that the system message asks for, about the contents of the last message."""
    system, first = request.body["messages"][0]["content"], request.context.split("\n")[0]
    if "Write a conversation" in system:
        return f"Question:\nWhat is it?\n===\nAnswer:\n{first}\n===\nQuestion:\nIs it night?\n===\nAnswer:\nNo."
    if "describe the picture in detail" in system:
        return f"{first}\n\nIt fills the picture."
    return f"Question:\nWhy is it there?\n===\nAnswer:\nBecause it likes it: {first}"


@pytest.fixture
def server() -> Iterator[TeachersServer]:
    """A server whose replies `server.behave` determines."""
    server = TeachersServer()
    yield server
    server.close()


@pytest.fixture
def images() -> list[AnnotatedImage]:
    """Six images with captions and a box each."""
    return [
        AnnotatedImage(f"p{i}", f"{i}.jpg", (f"Dog {i} runs.", f"A dog named {i}."), (Box("dog", 0.1, 0.2, 0.5, 0.9),))
        for i in range(6)
    ]
