"""An OpenAI-compatible server on this machine, whose behaviour a test decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
        """The last message."""
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


class Server:
    """An OpenAI-compatible server whose replies `behave` determines."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.behave: Callable[[Request, int], Answer] = lambda request, index: self.say("Good.")
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

    def send(self, body: bytes | str | dict[str, Any], status: int = 200, **rest: Any) -> Answer:
        """Anything else."""
        return Answer(body, status, **rest)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
