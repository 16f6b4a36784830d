"""A teacher's server on this machine, and annotated images to ask it about."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edge_llava.training.instructions.annotation import AnnotatedImage, Box


@dataclass
class Answer:
    """What the server sends after a delay: status, body, headers."""

    body: bytes | str | dict[str, Any]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    drip_s: float = 0.0  # between two bytes


@dataclass
class Request:
    """What the server received."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at_s: float

    @property
    def context(self) -> str:
        """The last message, which represents the image."""
        text: str = self.body["messages"][-1]["content"]
        return text


def completion(
    text: object, finish_reason: str = "stop", n_prompt: int = 100, n_completion: int = 20
) -> dict[str, Any]:
    """A chat completion."""
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
        },
    }


def good_reply(request: Request) -> str:
    """A reply of the type that the system message asks for, about the contents of the last message."""
    system, first = request.body["messages"][0]["content"], request.context.split("\n")[0]
    if "Write a conversation" in system:
        return f"Question:\nWhat is it?\n===\nAnswer:\n{first}\n===\nQuestion:\nIs it night?\n===\nAnswer:\nNo."
    if "describe the picture in detail" in system:
        return f"{first}\n\nIt fills the picture."
    return f"Question:\nWhy is it there?\n===\nAnswer:\nBecause it likes it: {first}"


class Server:
    """An OpenAI-compatible server whose replies `behave` determines."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.behave: Callable[[Request, int], Answer] = lambda request, index: self.good(request)
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        request = Request(handler.path, dict(handler.headers), body, time.monotonic())
        with self._lock:
            index = len(self.requests)
            self.requests.append(request)
        answer = self.behave(request, index)
        time.sleep(answer.wait_s)
        content = answer.body if isinstance(answer.body, bytes) else None
        if content is None:
            content = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        try:
            handler.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(content))} | answer.headers).items():
                handler.send_header(name, value)
            handler.end_headers()
            for at in range(len(content)) if answer.drip_s else ():
                handler.wfile.write(content[at : at + 1])
                time.sleep(answer.drip_s)
            if not answer.drip_s:
                handler.wfile.write(content)
        except OSError:
            pass  # the client has disconnected, which is what some tests are about

    def say(self, text: object, finish_reason: str = "stop") -> Answer:
        """A chat completion with this text: 100 prompt tokens, 20 completion tokens."""
        return Answer(completion(text, finish_reason))

    def good(self, request: Request) -> Answer:
        """A valid completion."""
        return self.say(good_reply(request))

    def send(self, body: bytes | str | dict[str, Any], status: int = 200, **rest: Any) -> Answer:
        """Anything else."""
        return Answer(body, status, **rest)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose replies `server.behave` determines."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def images() -> list[AnnotatedImage]:
    """Six images with captions and a box each."""
    return [
        AnnotatedImage(f"p{i}", f"{i}.jpg", (f"Dog {i} runs.", f"A dog named {i}."), (Box("dog", 0.1, 0.2, 0.5, 0.9),))
        for i in range(6)
    ]
