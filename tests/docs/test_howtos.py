"""What programs send that a how-to describes and that are not run here."""

from __future__ import annotations

import asyncio
import json

import pytest


def test_home_assistant(workplace, server_url) -> None:
    """The calls of its Ollama integration: the list of models, then chats with and without `structure`."""
    ollama = pytest.importorskip("ollama")

    async def ask(schema) -> str:
        messages = [
            ollama.Message(role="system", content="You are a Home Assistant expert."),
            ollama.Message(role="user", content="How many objects?", images=[ollama.Image(value="img.jpg")]),
        ]
        options = {"num_ctx": 8192}
        async with ollama.AsyncClient(host=server_url) as client:
            (model,) = (one.model for one in (await client.list()).models)
            parts = await client.chat(
                model, messages, tools=None, stream=True, keep_alive=-1, options=options, think=False, format=schema
            )
            return "".join([part["message"]["content"] async for part in parts])

    assert asyncio.run(ask(None))
    schema = json.loads((workplace / "receipt.json").read_text())
    assert set(json.loads(asyncio.run(ask(schema)))) == {"count"}


def test_open_webui(workplace, server_url) -> None:
    """The paths below OPENAI_API_BASE_URL, with a key where none is needed."""
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=f"{server_url}/v1", headers={"Authorization": "Bearer a-key-of-yours"}) as client:
        (model,) = client.get("/models").json()["data"]
        body = {"model": model["id"], "messages": [{"role": "user", "content": "What?"}], "stream": True}
        answer = client.post("/chat/completions", json=body | {"max_tokens": 4})
    assert answer.text.startswith("data: {")
    assert answer.text.endswith("data: [DONE]\n\n")
