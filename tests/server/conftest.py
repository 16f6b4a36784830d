"""A real server on loopback for the seeded bundle, which answers noise: greedily, until its context is full."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.server.app import ServerApp
from edge_llava.server.options import ServerOptions
from edge_llava.server.serving import make_config

PATIENCE_S = 60.0


@dataclass
class Running:
    """A server that runs on a thread of this process.

    Attributes:
        url: "http://127.0.0.1:PORT".
        app: The application that it serves.
        engine: The model that answers.
    """

    url: str
    app: ServerApp
    engine: LlavaModel
    loop: asyncio.AbstractEventLoop

    def client(self, **options: Any) -> httpx.Client:
        """A client that speaks plain HTTP."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, **options)

    def ask(self, client: httpx.Client, **fields: Any) -> httpx.Response:
        """Sends a chat request; its messages are a short question unless others are given."""
        return client.post("/v1/chat/completions", json={"messages": [user("What?")], "max_tokens": 4} | fields)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Waits until another thread has made a condition true."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.engine.metrics
            time.sleep(0.005)


def user(text: str, *urls: str) -> dict[str, Any]:
    """A user's message with images."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


@pytest.fixture(scope="session")
def ask_user() -> Callable[..., dict[str, Any]]:
    """ask_user(text, *urls) -> a user's message with images."""
    return user


@pytest.fixture(scope="session")
def image_file() -> Callable[..., bytes]:
    """image_file(format="PNG", seed=0, size=(60, 40)) -> the file's bytes; every seed gives another image."""

    def make(format: str = "PNG", seed: int = 0, size: tuple[int, int] = (60, 40)) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def data_uri(image_file: Callable[..., bytes]) -> Callable[..., str]:
    """data_uri(data=None, kind="image/png", **options of image_file) -> "data:image/png;base64,..."."""

    def make(data: bytes | None = None, kind: str = "image/png", **options: Any) -> str:
        file = image_file(**options) if data is None else data
        return f"data:{kind};base64,{base64.b64encode(file).decode()}"

    return make


@pytest.fixture(scope="session")
def slow_jpeg() -> bytes:
    """6 megapixels in 30 kB that take half a second to decode: a progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("L", (2500, 2500), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    end = data.rindex(b"\xff\xd9")
    last_scan = data[data.rindex(b"\xff\xda") : end]
    return data[:end] + last_scan * (95 - data.count(b"\xff\xda")) + data[end:]


@pytest.fixture(scope="session")
def make_engine(seeded_f32: Path) -> Iterator[Callable[..., LlavaModel]]:
    """make_engine(n_ctx=None, **EngineOptions fields) -> an engine, closed at the end of the session.

    In float32, so that an answer does not depend on the others in its batch.
    """
    engines = []

    def make(n_ctx: int | None = None, **options: Any) -> LlavaModel:
        places = {"parallel": 4, "n_queued": 16} | options
        how = EngineOptions(decoder=DecoderOptions(n_threads=1, n_ctx=n_ctx), n_vision_threads=1, **places)
        engines.append(LlavaModel(Bundle.open(seeded_f32), how))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def engine(make_engine: Callable[..., LlavaModel]) -> LlavaModel:
    """An engine with two answers at the same time, and a long queue."""
    return make_engine(parallel=2, n_queued=64)


@pytest.fixture(scope="session")
def run_server(engine: LlavaModel) -> Iterator[Callable[..., Running]]:
    """run_server(options=ServerOptions(), engine=engine, remote=None) -> Running, stopped at the end of the session."""
    stops = []

    def run(options: ServerOptions | None = None, engine: LlavaModel = engine, remote: Any = None) -> Running:
        app = ServerApp(engine, options, remote=remote)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(make_config(app))
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        stops.append((server, thread))
        deadline = time.monotonic() + PATIENCE_S
        while not server.started:
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.005)
        return Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app, engine, loops[0])

    yield run
    for server, thread in stops:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def server(run_server: Callable[..., Running]) -> Running:
    """A server with the default options."""
    return run_server()


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """A client of `server`."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def check_error() -> Callable[..., dict[str, Any]]:
    """check_error(response, status, code=None, param=None) -> OpenAI's error object, after its form is checked."""

    def check(response: httpx.Response, status: int, code: str | None = None, param: str | None = None) -> Any:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert set(response.json()) == {"error"}
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        assert error["type"] == kinds.get(status, "invalid_request_error")
        if code is not None:
            assert error["code"] == code, error
        if param is not None:
            assert error["param"] == param, error
        return error

    return check
