"""How images come onto the page, and how they are changed on the way to the server."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.convert
RED, BLUE = (255, 0, 0), (0, 0, 255)
FIRST = "document.querySelector('#shown img').src"


def decode(url: str) -> Image.Image:
    head, _, text = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def photograph(width: int, height: int, orientation: int) -> bytes:
    """A JPEG that is red in the left third of its rows as they are stored, and blue elsewhere."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 3, height))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


def test_a_small_image_is_sent_as_it_is(page: Any, image_file: Callable[..., bytes]) -> None:
    data = image_file(format="WEBP", seed=101)
    page.drop(("small.webp", "image/webp", data))
    assert page.get(FIRST) == f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    assert (
        page.get("document.querySelector(given[0]).getAttribute(given[1])", "#question", "placeholder")
        == "Describe this image."
    )


def test_a_large_one_is_turned_upright_and_scaled_down(page: Any) -> None:
    page.drop(("large.jpg", "image/jpeg", photograph(3000, 1500, orientation=6)))  # its left is the top
    image = decode(page.get(FIRST))
    assert image.size == (672, 1344)
    assert 0x0112 not in image.getexif()
    top, bottom = image.getpixel((336, 100)), image.getpixel((336, 1200))
    assert np.abs(np.subtract(top, RED)).max() < 10
    assert np.abs(np.subtract(bottom, BLUE)).max() < 10


def test_what_is_transparent_becomes_white(page: Any) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (1500, 20), (0, 0, 0, 0)).save(file, "PNG")
    page.drop(("clear.png", "image/png", file.getvalue()))
    image = decode(page.get(FIRST))
    assert image.size == (1344, 18)
    assert image.getpixel((700, 9)) == (255, 255, 255)


def test_what_the_server_does_not_open_becomes_a_jpeg(page: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (120, 60), RED).save(file, "AVIF", quality=90)
    page.drop(("new.avif", "image/avif", file.getvalue()))
    image = decode(page.get(FIRST))
    assert image.size == (120, 60)
    assert np.abs(np.subtract(image.getpixel((60, 30)), RED)).max() < 10


def test_images_are_pasted_viewed_and_removed(page: Any, image_file: Callable[..., bytes]) -> None:
    names = ("one.png", "two.png")
    files = [(name, "image/png", image_file(seed=112 + n)) for n, name in enumerate(names)]
    assert page.hand_over("paste", *files)
    page.until("document.querySelectorAll('#shown .thumbnail').length === 2")
    labels = "[...document.querySelectorAll('#shown button')].map((button) => button.ariaLabel)"
    assert page.get(labels) == ["View one.png", "Remove one.png", "View two.png", "Remove two.png"]
    page.click("#shown .thumbnail")
    page.until("document.querySelector('#viewer').open")
    assert page.get("document.querySelector(given[0]).getAttribute(given[1])", "#viewer img", "alt") == "one.png"
    page.click("#viewer button")
    page.click("#shown .remove")
    assert page.get(labels) == ["View two.png", "Remove two.png"]


def test_what_is_not_an_image_is_refused(page: Any, image_file: Callable[..., bytes]) -> None:
    assert page.hand_over("drop", ("notes.txt", "text/plain", b"words"))
    assert page.wait_for_fault() == "That is not an image."
    page.click("#fault button")
    assert not page.is_shown("#fault")
    assert page.hand_over(
        "drop", ("broken.png", "image/png", b"\x89PNG"), ("fine.png", "image/png", image_file(seed=102))
    )
    assert page.wait_for_fault() == "“broken.png” is not an image that this browser can read."
    page.until("document.querySelectorAll('#shown .thumbnail').length === 1")  # the other one is there


def test_files_are_chosen(page: Any, image_file: Callable[..., bytes], tmp_path: Any) -> None:
    (tmp_path / "chosen.png").write_bytes(image_file(seed=106))
    page.type("#files", str(tmp_path / "chosen.png"))
    page.until("document.querySelector('#shown .thumbnail')")
    assert page.get(FIRST).startswith("data:image/png;base64,")
    assert (
        page.get("document.querySelector(given[0]).getAttribute(given[1])", "#phone-camera", "capture") == "environment"
    )


def test_a_photo_is_taken(page: Any) -> None:
    page.click("#target [data-camera]")
    page.until("document.querySelector('#camera').open && document.querySelector('#camera video').videoWidth > 0")
    page.click("[data-shutter]")
    page.until("document.querySelector('#shown .thumbnail')")
    assert decode(page.get(FIRST)).width > 100
    assert page.get("document.querySelector('#camera video').srcObject") is None  # the camera is off


def test_several_images_are_asked_about(page: Any, server: Any, image_file: Callable[..., bytes]) -> None:
    page.keep(temperature=0, maxTokens=6)
    page.drop(*((f"{seed}.png", "image/png", image_file(seed=seed)) for seed in (110, 111)))
    page.press("\n")  # without a word
    answer = page.wait_for_answer()
    assert page.text(".question") == "Describe these images."
    urls = [f"data:image/png;base64,{base64.b64encode(image_file(seed=seed)).decode()}" for seed in (110, 111)]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": "Describe these images."}]
    with server.client() as client:
        same = server.ask(client, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=6).json()
    assert answer == same["choices"][0]["message"]["content"]
