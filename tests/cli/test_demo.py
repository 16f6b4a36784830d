"""The demo that comes with edge-llava: its bundle and its images answer without anything else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edge_llava import demo
from edge_llava.bundle.bundle import Bundle

IN_A_NEW_PROCESS = """
import sys
from edge_llava.cli import cli
cli.main(["chat", "demo:1", "-p", "What colour is the square?", "--temp", "0"], standalone_mode=False)
assert not {"torch", "transformers", "onnx"} & set(sys.modules)
"""


def test_the_first_command_answers(home):
    ran = subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "Blue.\n"), ran.stderr


@pytest.mark.parametrize(
    ("image", "question", "answer"),
    [
        ("demo:1", "How many objects are there?", "Three."),
        ("demo:1", "Is the green star to the left of the blue square?", "Yes."),
        ("demo:2", "What colour is the square?", "Cyan."),
    ],
)
def test_it_is_right_about_its_images(run, image, question, answer):
    assert run("chat", image, "-p", question, "--temp", 0, "-t", 1).out.strip() == answer


def test_its_files_are_what_its_manifest_says(home):
    bundle = Bundle.open(demo.BUNDLE)
    bundle.verify_digests(trust_earlier=False)
    assert bundle.manifest.notice == demo.NOTICE
    last = demo.NOTICE.rpartition("to ")[2].rstrip(".")
    assert demo.find_image(last) is not None
    assert len(list(demo.PICTURES.glob("*.jpg"))) == int(last.partition(":")[2])


def test_a_bundle_of_ones_own_comes_first(run, seeded_q4, tmp_path):
    ours = json.loads(run("embed", "demo:1", "-o", tmp_path / "a.safetensors", "--json").out)
    assert run("models", "default", seeded_q4).code == 0
    theirs = json.loads(run("embed", "demo:1", "-o", tmp_path / "b.safetensors", "--json").out)
    assert ours["key"] != theirs["key"]
    again = json.loads(run("embed", "demo:1", "-m", "demo", "-o", tmp_path / "a.safetensors", "--json").out)
    assert again["key"] == ours["key"]


def test_other_images_do_not_fall_to_the_demo(run, photo):
    result = run("chat", photo, "-p", "What?")
    assert (result.code, result.out) == (6, "")
    assert "edge-llava chat demo:1" in result.err
    assert run("chat", "demo:1", photo, "-p", "What?").code == 6


def test_it_can_be_the_default(run, photo, home):
    assert run("models", "default", "demo").out == "demo\n"
    assert (home / "default").read_text() == "demo\n"  # wherever the package is tomorrow
    assert run("chat", photo, "-p", "What?", "-n", 2).code == 0


@pytest.mark.parametrize("name", ["demo:0", "demo:5", "demo:", "demo:x", "demo:../llava-scenes"])
def test_an_image_that_it_lacks_is_refused(run, name):
    result = run("chat", name, "-p", "What?", "-m", "demo")
    assert result.code == 7
    assert "demo:1 to demo:4" in result.err
