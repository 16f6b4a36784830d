"""Ollama's own Python client, unchanged, against a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from edge_llava.server.options import ServerOptions

KEY = "sk-a-key-of-the-tests"
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def guarded(run_server: Callable[..., Any]) -> Any:
    """A server with a key, and with an alias like the name of Ollama's model."""
    return run_server(ServerOptions(api_key=KEY, aliases=("llava",)))


@pytest.fixture
def client(guarded: Any) -> Iterator[ollama.Client]:
    """Ollama's client."""
    with ollama.Client(host=guarded.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def whole_of_openai(guarded: Any, question: str, *urls: str, system: str | None = None) -> str:
    """The chat API's answer to the same question."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
    with guarded.client(headers={"Authorization": f"Bearer {KEY}"}) as http:
        answer = guarded.ask(http, messages=messages, temperature=0, max_tokens=12).json()
    return str(answer["choices"][0]["message"]["content"])


def test_chat_and_generate_answer_as_the_chat_api_does(
    client: ollama.Client, guarded: Any, data_uri: Any, image_file: Any, tmp_path: Path
) -> None:
    expected = whole_of_openai(guarded, "What is it?", data_uri(seed=40), system="Be brief.")
    (tmp_path / "img.png").write_bytes(image_file(seed=40))
    for image in (image_file(seed=40), tmp_path / "img.png", str(tmp_path / "img.png")):
        question = {"role": "user", "content": "What is it?", "images": [image]}
        chat = client.chat("llava", [{"role": "system", "content": "Be brief."}, question], options=GREEDY)
        assert chat.message.content == expected
        assert chat.message.role == "assistant"
    answer = client.generate("llava", "What is it?", system="Be brief.", images=[image_file(seed=40)], options=GREEDY)
    assert answer.response == expected
    for response in (chat, answer):
        assert (response.model, response.done) == ("llava", True)
        assert (response.done_reason, response.eval_count) == ("length", 12)
        assert response.prompt_eval_count is not None
        assert response.prompt_eval_count > 64
        assert response.total_duration is not None
        durations = (response.load_duration, response.prompt_eval_duration, response.eval_duration)
        assert all(isinstance(duration, int) and duration > 0 for duration in durations)
        assert response.total_duration == sum(map(int, filter(None, durations)))
        assert response.created_at is not None
        assert response.created_at.endswith("Z")


def test_streams_say_what_the_whole_answer_says(client: ollama.Client, guarded: Any) -> None:
    expected = whole_of_openai(guarded, "What?")
    lines = list(client.chat("llava:latest", [{"role": "user", "content": "What?"}], stream=True, options=GREEDY))
    assert "".join(line.message.content or "" for line in lines) == expected
    pieces = list(client.generate("llava:latest", "What?", stream=True, options=GREEDY))
    assert "".join(piece.response or "" for piece in pieces) == expected
    for answers in (lines, pieces):
        assert len(answers) > 5
        assert [answer.done for answer in answers] == [False] * (len(answers) - 1) + [True]
        assert {answer.model for answer in answers} == {"llava:latest"}
        assert (answers[-1].done_reason, answers[-1].eval_count) == ("length", 12)
        assert answers[0].eval_count is None


def test_the_asynchronous_client(guarded: Any, image_file: Any) -> None:
    async def ask() -> tuple[str, str]:
        async with ollama.AsyncClient(host=guarded.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
            question = {"role": "user", "content": "What?", "images": [image_file(seed=41)]}
            whole = await client.chat("llava", [question], options=GREEDY)
            stream = await client.chat("llava", [question], options=GREEDY, stream=True)
            return whole.message.content or "", "".join([line.message.content or "" async for line in stream])

    whole, streamed = asyncio.run(ask())
    assert whole
    assert whole == streamed


def test_structured_output(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    answer = client.generate("llava", "What?", format=schema, options={"seed": 1, "num_predict": 100})
    assert json.loads(answer.response or "")["colour"] in ("red", "blue")
    cut = client.generate("llava", "What?", format="json", options={"seed": 1, "num_predict": 10})
    assert (cut.response or "").startswith("{")


def test_models(client: ollama.Client, guarded: Any, engine: Any) -> None:
    listed = client.list().models
    assert [model.model for model in listed] == ["llava:latest", f"{engine.bundle.name}:latest"]
    shown = client.show("llava")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == engine.n_ctx
    assert shown.template is not None
    assert "{{ .Prompt }} ASSISTANT:" in shown.template
    for about in (*listed, shown):
        assert about.details is not None
        assert (about.details.format, about.details.family) == ("gguf", "llama")
        assert about.details.quantization_level == "F32"
    language = engine.bundle.manifest.language
    assert shown.modelinfo["general.parameter_count"] > language.n_vocab * language.n_embd
    assert listed[0].size == engine.bundle.n_bytes
    assert len(listed[0].digest or "") == 64
    assert listed[0].modified_at is not None
    (running,) = client.ps().models
    assert running.model == "llava:latest"
    assert running.context_length == engine.n_ctx
    assert running.expires_at is not None
    assert client.pull("llava").status == "success"


def test_errors_are_the_clients_own(guarded: Any, client: ollama.Client, image_file: Any) -> None:
    def fails(status: int, call: Callable[[], Any]) -> str:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == status, caught.value
        assert isinstance(caught.value.error, str)
        return caught.value.error

    question = [{"role": "user", "content": "What?"}]
    assert fails(404, lambda: client.chat("mistral", question)) == "model 'mistral' not found"
    assert fails(404, lambda: client.show("mistral")) == "model 'mistral' not found"
    assert "options.temperature" in fails(400, lambda: client.chat("llava", question, options={"temperature": -1}))
    broken = [{"role": "user", "content": "What?", "images": [image_file(seed=1), b"no image"]}]
    assert "messages[0].images[1]" in fails(400, lambda: client.chat("llava", broken))
    assert "images[0]" in fails(400, lambda: client.generate("llava", "What?", images=[b"no image"]))
    assert '"llava" does not support thinking' in fails(400, lambda: client.chat("llava", question, think=True))
    assert "does not support embeddings" in fails(400, lambda: client.embed("llava", "text"))
    assert "serves one model" in fails(400, lambda: client.pull("mistral"))
    assert "not offered" in fails(400, lambda: client.delete("llava"))
    assert "/api/chat" in fails(400, lambda: client.generate("llava", "What?", context=[1, 2]))
    stranger = ollama.Client(host=guarded.url)
    assert "API key" in fails(401, stranger.list)
    stranger.close()


def test_the_example_of_the_documentation(
    server: Any, image_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import ollama" in block)
    (tmp_path / "img.jpg").write_bytes(image_file("JPEG"))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:8080", server.url), {})
    assert capsys.readouterr().out.strip()
