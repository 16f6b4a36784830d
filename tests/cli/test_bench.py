from __future__ import annotations

import json
import os
import platform

import numpy as np
import pytest
from PIL import Image

import edge_llava
from edge_llava.device.facts import this_device
from edge_llava.measuring.benchmark import mark_image

pytestmark = pytest.mark.convert
KEYS = {
    "vision_s", "prefill_tps", "decode_tps", "ttft_cold_s", "ttft_loaded_s", "ttft_second_question_s",
    "ttft_restored_s", "peak_rss_bytes",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_cpu():
    """Tiny models gain nothing from a second CPU."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    yield
    os.sched_setaffinity(0, usable)


def test_json_holds_the_medians(run, seeded_q4, photo):
    result = run("bench", "-m", seeded_q4, "--image", photo, "--runs", 3, "-t", 1, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert set(report) == KEYS | {"settings", "spread", "vision_on", "language_on"}
    assert (report["vision_on"], report["language_on"]) == ("cpu", "cpu")
    assert set(report["spread"]) == KEYS | {"projector_s"}
    for key in KEYS:
        assert report[key] == report["spread"][key]["median"] > 0
    assert all(spread["min"] <= spread["median"] <= spread["max"] for spread in report["spread"].values())
    assert report["ttft_cold_s"] > report["ttft_loaded_s"] > report["vision_s"]  # each contains the next
    assert report["ttft_second_question_s"] < report["ttft_loaded_s"]
    assert report["peak_rss_bytes"] > 10**7
    settings = report["settings"]
    assert (settings["runs"], settings["n_image_tokens"], settings["profile"]) == (3, 64, False)
    assert settings["engines"]["decoder"]["n_threads"] == settings["engines"]["n_vision_threads"] == 1
    assert settings["quant"] == "Q4_K_M"
    assert settings["versions"] == {"edge-llava": edge_llava.__version__, "python": platform.python_version()}
    assert settings["system"] == platform.platform()


def test_table_fits_80_columns_and_needs_no_image(run, seeded_q4):
    result = run("bench", "-m", seeded_q4, "--runs", 1)
    assert result.code == 0
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    facts = this_device()
    assert lines[:2] == ["seeded-q4, Q4_K_M", f"{facts.cpu}, 1 CPUs, {platform.system()} {facts.machine}"]
    assert lines[2].startswith(f"edge-llava {edge_llava.__version__}, llama-cpp-python {facts.llama_cpp}, ")
    assert lines[3] == "threads: language 1, vision 1; settings: not tuned"
    assert lines[4:6] == ["64 image tokens, 1 runs", "runs on: language cpu, vision cpu"]
    assert [line.split("  ")[0] for line in lines[8:]] == [
        "first token, new process",
        "first token, loaded, new image",
        "first token, second question",
        "first token, image seen before",
        "vision tower",
        "projector",
        "prefill",
        "decode",
        "peak memory, new process",
    ]


def test_every_number_makes_another_image_that_survives_jpeg(photo, tmp_path):
    with Image.open(photo) as image:
        made = [mark_image(image, number) for number in (1, 2, 1)]
    for index, image in enumerate(made):
        image.save(tmp_path / f"{index}.jpg", quality=95)
    pixels = []
    for index in range(3):
        with Image.open(tmp_path / f"{index}.jpg") as image:
            pixels.append(np.asarray(image))
    assert np.array_equal(pixels[0], pixels[2])
    height, width = pixels[0].shape[:2]
    middle = np.s_[height // 2 - 8 : height // 2 + 8, width // 2 - 8 : width // 2 + 8]
    assert np.abs(pixels[0][middle].astype(int) - pixels[1][middle]).mean() > 10
    assert np.array_equal(pixels[0][: height // 2 - 24], pixels[1][: height // 2 - 24])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--runs", "0"), 2), (("--image", "no-such.jpg"), 7), (("-m", "no-such-bundle"), 6)],
)
def test_bad_input(run, seeded_q4, monkeypatch, arguments, code):
    monkeypatch.setenv("EDGE_LLAVA_MODEL", str(seeded_q4))
    result = run("bench", *arguments)
    assert (result.code, result.out) == (code, "")


def test_a_cold_process_that_fails_is_told(run, seeded_q4):
    result = run("bench", "-m", seeded_q4, "--runs", 1, "-c", 64)
    assert (result.code, result.out) == (9, "")
    assert "the context has 64" in result.err
