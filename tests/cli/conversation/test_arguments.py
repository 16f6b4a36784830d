"""What `chat` is given: images, embeddings, and a question among them."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("question", ["What is this?", "Why?", "Describe it"])
def test_an_argument_is_the_question(run, seeded_q4, photo, question):
    result = run("chat", photo, question, "-m", seeded_q4, "-n", 2, "--json")
    assert json.loads(result.out)["prompt"] == question


@pytest.mark.parametrize("where", ["{} What is this?", "What is this? {}"])
def test_a_path_in_the_question_is_an_image(run, seeded_q4, photo, where):
    """As Ollama takes it."""
    result = json.loads(run("run", seeded_q4, where.format(photo), "-n", 2, "--json").out)
    assert (result["prompt"], [image["path"] for image in result["images"]]) == ("What is this?", [str(photo)])


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
        (("What is this? ./no.jpg",), 7, "there is no file What is this? ./no.jpg"),
        (("./no.jpg what is this?",), 7, "there is no image ./no.jpg"),
        (("demo:9 what?",), 7, "there is no image demo:9"),
        (("PHOTO", "What", "is", "this?"), 7, "put the question in quotes"),
        (("demo",), 7, "edge-llava chat demo:1"),
        (("PHOTO", "What is this?", "And this?"), 2, "there are several questions"),
        (("PHOTO", "What is this?", "-p", "x"), 2, "there are several questions"),
        (("PHOTO", "What is this?", "--continue"), 2, "--continue continues a conversation on a terminal"),
        (("PHOTO", "-p", "\udcff"), 2, "the question is not UTF-8 text"),
        (("PHOTO", "-p", "x", "--system", "\udcff"), 2, "--system is not UTF-8 text"),
        (("PHOTO", "-p", "x", "--stop", "\udcff"), 2, "--stop is not UTF-8 text"),
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
