"""What `chat` is given: images, embeddings, and a question among them."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("question", ["What is this?", "Why?", "Describe it"])
def test_an_argument_is_the_question(run, seeded_q4, photo, question):
    result = run("chat", photo, question, "-m", seeded_q4, "-n", 2, "--json")
    assert json.loads(result.out)["prompt"] == question


def test_image_and_system(run, seeded_q4, photo):
    options = ("-m", seeded_q4, "-p", "What?", "-n", 2, "--temp", 0)
    plain = json.loads(run("chat", photo, *options, "--json").out)
    for name in ("-i", "--image"):
        assert json.loads(run("chat", name, photo, *options, "--json").out)["images"] == plain["images"]
    assert "Answer in verse. USER:" in run("chat", *options, "--system", "Answer in verse.", "--show-prompt").err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ("https://example.org/a.jpg", "-p", "x"),
            7,
            "images are not fetched: download https://example.org/a.jpg first",
        ),
        (("my photo.jpg", "-p", "x"), 7, "there is no file my photo.jpg"),
        (("PHOTO", "What is this?", "And this?"), 2, "there are several questions"),
        (("PHOTO", "What is this?", "-p", "x"), 2, "there are several questions"),
        (("PHOTO", "What is this?", "--continue"), 2, "--continue continues a conversation on a terminal"),
        (("no.png", "-p", "\udcff"), 2, "the question is not UTF-8 text"),
        (("no.png", "-p", "x", "--system", "\udcff"), 2, "--system is not UTF-8 text"),
        (("no.png", "-p", "x", "--stop", "\udcff"), 2, "--stop is not UTF-8 text"),
        (("--embedding", "PHOTO", "-p", "x"), 7, "is an image, not a file of `edge-llava embed`"),
        (("EMBEDDING", "-p", "x"), 7, "give it with --embedding"),
    ],
)
def test_mistakes_say_what_to_do(run, photo, tmp_path, arguments, code, says):
    (tmp_path / "e.safetensors").write_bytes(b"x")
    places = {"PHOTO": photo, "EMBEDDING": tmp_path / "e.safetensors"}
    result = run("chat", *(places.get(argument, argument) for argument in arguments))
    assert (result.code, result.out) == (code, "")
    assert says in result.err


def test_nothing_to_continue(run, monkeypatch, home):
    from types import SimpleNamespace

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    result = run("chat", "--continue")
    assert result.code == 1
    assert "there is no conversation to continue" in result.err
