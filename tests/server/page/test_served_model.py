"""What the page says about the model, and about answers that may mislead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.convert
MEET = """
const { ServedModel } = await import("/page/served_model.js");
await new ServedModel({ meet: async () => given[0] }, {}).meet();
"""
PLACES = "[...document.querySelectorAll('[data-places]')].map((place) => place.textContent)"


def test_where_it_computes(page: Any) -> None:
    page.until(f"{PLACES}[0] !== ''")
    assert page.get(PLACES) == ["The server computes on CPU."] * 2
    page.run(MEET, {"id": "other", "notice": None, "language_on": "Vulkan0 33/33", "vision_on": "cuda, or else cpu"})
    text = "The server computes answers on Vulkan0 33/33, and reads images on CUDA, or else CPU."
    assert page.get(PLACES) == [text] * 2


def test_the_notice_is_shown(page: Any) -> None:
    page.keep(maxTokens=4)
    page.until("!document.querySelector('#model').hidden")
    assert not page.is_shown("#notice")
    about = {"id": "other", "language_on": "cpu", "vision_on": "cpu"}
    page.run(MEET, about | {"notice": "Knows <b>drawn</b> shapes only."})
    assert page.is_shown("#notice")
    assert page.text("#notice") == "Knows <b>drawn</b> shapes only."
    page.ask("What?")
    page.wait_for_answer()
    assert page.is_shown("#notice")


def test_a_first_question_without_an_image_says_so(page: Any, image_file: Callable[..., bytes]) -> None:
    page.keep(temperature=0, maxTokens=4)
    for question in ("What is this?", "And now?"):
        page.ask(question)
        page.wait_for_answer()
    shown = "[...document.querySelectorAll('.blind')].map((note) => note.checkVisibility())"
    assert page.get(shown) == [True, False]
    assert page.text(".blind") == "No image with this question"  # a later question may bring one
    page.click("#new")
    page.drop(("noise.png", "image/png", image_file(seed=127)))
    page.ask("What is this?")
    page.wait_for_answer()
    assert page.get(shown) == [False]


@pytest.mark.parametrize(("n_tokens", "is_shown"), [(15, False), (16, True)])
def test_a_rate_needs_tokens(page: Any, n_tokens: int, is_shown: bool) -> None:
    page.keep(temperature=0, maxTokens=n_tokens)
    page.ask("What?")
    page.wait_for_answer()
    summary = page.text(".figures summary")
    assert summary.startswith(f"{n_tokens} tokens · ")
    assert ("tokens/s" in summary) == is_shown
