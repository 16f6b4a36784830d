"""The server opens the same image formats as the command line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_llava.home.image_files.opening import open_image

PHONE = Path(__file__).parents[1] / "data" / "phone.heic"


@pytest.fixture
def ask_about(server, client, ask_user, data_uri):
    """ask_about(bytes) -> the answer's text."""

    def ask(data, kind="image/png"):
        answer = server.ask(client, messages=[ask_user("What?", data_uri(data, kind))], temperature=0, max_tokens=6)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    return ask


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["AVIF", "TIFF", "JPEG2000", "TGA", "PPM"])
def test_formats_beyond_those_of_the_web(ask_about, image_file, format_):
    data = image_file(format_, seed=21)
    assert ask_about(data) == ask_about(png(open_image(data)))


def test_heic(ask_about):
    pytest.importorskip("pillow_heif")
    assert ask_about(PHONE.read_bytes(), "image/heic") == ask_about(png(open_image(PHONE)))


def test_transparency_is_white(ask_about, image_file):
    noise = np.asarray(Image.open(io.BytesIO(image_file(seed=22))).convert("RGB"))
    clear = Image.fromarray(np.dstack([noise, np.zeros(noise.shape[:2], np.uint8)]))
    assert ask_about(png(clear)) == ask_about(png(Image.new("RGB", clear.size, "white")))


def test_a_jpeg_whose_end_is_missing(ask_about, image_file):
    data = image_file("JPEG", seed=23)
    assert ask_about(data[:-2], "image/jpeg") == ask_about(png(open_image(data[:-2])))


def test_images_whose_end_is_missing_are_listed(server, client, ask_user, data_uri, image_file):
    whole = image_file("JPEG", seed=23)
    addresses = [data_uri(data, "image/jpeg") for data in (whole, whole[:-2])]
    for stream in (False, True):
        answer = server.ask(client, messages=[ask_user("What?", *addresses)], max_tokens=2, stream=stream)
        assert answer.headers["x-edge-llava-truncated-images"] == "2"
    answer = server.ask(client, messages=[ask_user("What?", addresses[0])], max_tokens=2)
    assert "x-edge-llava-truncated-images" not in answer.headers
