"""The memory that the server counts for requests is what the process uses for them."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

PATIENCE_S = 60.0
COMMAND = [sys.executable, "-W", "error", "-c", "from edge_llava.cli import main; main()", "serve"]
# in addition to what is counted: the tower's and the engine's own working memory, the event loop's buffers, fragments
SLACK_BYTES = 64 * 2**20


@pytest.fixture
def url(seeded_q4: Path) -> Iterator[str]:
    """A server with the default options in its own process, after one small image was answered."""
    command = [*COMMAND, "-m", str(seeded_q4), "--port", "0", "-t", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(match for line in process.stderr if (match := re.search(r"page: (http://\S+:\d+)/", line)))
        assert ask(found[1], encode(np.zeros((50, 50, 3), np.uint8), "PNG")).status_code == 200
        yield found[1]
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def encode(pixels: Any, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def ask(url: str, *images: bytes) -> httpx.Response:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What?"}]
    for image in images:
        uri = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": uri}})
    wanted = {"messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    return httpx.post(f"{url}/v1/chat/completions", json=wanted, timeout=10 * PATIENCE_S)


def metric(url: str, name: str) -> int:
    (line,) = (line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(f"edge_llava_{name} "))
    return int(line.split()[1])


def check_peak(url: str, work: Callable[[], None]) -> None:
    """Does work, and compares the memory it took with the memory that was counted."""
    before = metric(url, "peak_resident_bytes")
    work()
    taken, charged = metric(url, "peak_resident_bytes") - before, metric(url, "held_bytes_peak")
    assert taken <= charged + SLACK_BYTES, (taken, charged)
    assert metric(url, "held_bytes") == 0


def ask_all(url: str, image: bytes, n_requests: int) -> list[int]:
    with ThreadPoolExecutor(n_requests) as clients:
        return [answer.status_code for answer in clients.map(lambda _: ask(url, image), range(n_requests))]


@pytest.mark.parametrize("format", ["PNG", pytest.param("WEBP", marks=pytest.mark.slow)])
def test_images_take_the_memory_that_is_counted(url: str, format: str) -> None:
    """A wide one, which the tower pads."""
    image = encode(np.zeros((2500, 5000, 3), np.uint8), format)

    def work() -> None:
        assert ask_all(url, image, 3) == [200] * 3

    check_peak(url, work)


@pytest.mark.parametrize("text", ["x", "\u00e9\U0001f600"])
def test_bodies_take_the_memory_that_is_counted(url: str, text: str) -> None:
    """As one string, and as base64 that is not an image; an emoji makes every character take four bytes."""
    noise = np.random.default_rng(0).bytes(14 * 2**20)
    body = json.dumps({"messages": [{"role": "user", "content": text}], "x": "A" * 25_000_000}, ensure_ascii=False)

    def work() -> None:
        headers = {"Content-Type": "application/json"}
        answers = [httpx.post(f"{url}/v1/chat/completions", content=body.encode(), headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [400] * 2 or [200] * 2
        assert ask(url, noise).status_code == 400

    check_peak(url, work)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7000, 7000), (6000, 8000)])
def test_the_largest_images_all_at_once(url: str, shape: tuple[int, int]) -> None:
    """Files of 143 kB. Some are refused; the others are answered, and together they stay within the gigabyte."""
    image = encode(np.zeros((*shape, 3), np.uint8), "PNG")
    found: list[int] = []

    def work() -> None:
        found.extend(ask_all(url, image, 6))

    check_peak(url, work)
    assert set(found) <= {200, 429}
    assert 200 in found
    assert metric(url, "held_bytes_peak") <= 2**30
