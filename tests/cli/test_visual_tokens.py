"""`--visual-tokens` of commands that open engines: what is reported, counted and refused."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.convert


@pytest.fixture
def chat(run, seeded_q4):
    """chat(*arguments) -> Result of a question with the demo, as JSON."""
    options = ("-m", seeded_q4, "-p", "What?", "-n", 8, "--temp", 0, "-t", 1, "--json")
    return lambda *arguments: run("chat", *options, *arguments)


def test_chat_counts_them(chat, photo):
    whole, reduced, again = (json.loads(chat(photo, *more).out) for more in ((), *[("--visual-tokens", 16)] * 2))
    (first,), (second,) = whole["images"], reduced["images"]
    assert (first["n_tokens"], second["n_tokens"]) == (64, 16)
    assert first["key"] != second["key"]
    assert whole["timings"]["prefill_tokens"] - reduced["timings"]["prefill_tokens"] == 48
    assert reduced["timings"]["cached_tokens"] == 0  # what the first one cached is not a prefix of this
    assert again["timings"]["cached_tokens"] > 16
    assert (again["tokens"], again["images"]) == (reduced["tokens"], reduced["images"])


def test_embed_and_chat_need_the_same(run, chat, seeded_q4, photo, tmp_path):
    file = tmp_path / "image.safetensors"
    made = run("embed", photo, "-o", file, "-m", seeded_q4, "-t", 1, "--visual-tokens", 16, "--json")
    assert made.code == 0
    direct = json.loads(chat(photo, "--visual-tokens", 16).out)
    assert json.loads(made.out)["n_tokens"] == 16
    assert json.loads(made.out)["key"] == direct["images"][0]["key"]
    loaded = json.loads(chat("--embedding", file, "--visual-tokens", 16).out)
    assert loaded["tokens"] == direct["tokens"]
    for more in ((), ("--visual-tokens", 17)):
        refused = chat("--embedding", file, *more)
        assert (refused.code, refused.out) == (7, "")
        assert "--visual-tokens: use the same for both" in refused.err


def test_bench_measures_with_them_and_says_so(run, seeded_q4):
    result = run("bench", "-m", seeded_q4, "--runs", 1, "-t", 1, "--visual-tokens", 16, "--json")
    assert result.code == 0
    settings = json.loads(result.out)["settings"]
    assert settings["n_image_tokens"] == settings["engines"]["visual_tokens"] == 16


def test_an_exam_with_them_says_so(run, seeded_q4, monkeypatch):
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_DESCRIPTION_TOKENS", 8)
    arguments = ("eval", "scenes", "-m", seeded_q4, "-t", 1, "-n", 1, "--json")
    assert json.loads(run(*arguments, "--visual-tokens", 16).out)["visual_tokens"] == 16


@pytest.mark.parametrize(
    ("n", "code", "says"),
    [
        (64, 6, "this bundle gives an image 64 tokens: --visual-tokens takes 2 to 63, not 64."),
        (576, 6, "this bundle gives an image 64 tokens: --visual-tokens takes 2 to 63, not 576."),
        (1, 2, "1 is not in the range x>=2"),
        ("many", 2, "'many' is not a valid integer"),
    ],
)
@pytest.mark.parametrize("command", ["chat", "embed", "bench", "eval"])
def test_numbers_that_are_not(run, seeded_q4, photo, tmp_path, command, n, code, says):
    arguments = {
        "chat": ("chat", photo, "-p", "What?"),
        "embed": ("embed", photo, "-o", tmp_path / "a"),
        "bench": ("bench", "--runs", 1),
        "eval": ("eval", "scenes", "-n", 1),
    }[command]
    result = run(*arguments, "-m", seeded_q4, "--visual-tokens", n)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert list(tmp_path.iterdir()) == []
