"""Images and conversations to measure with: built-in ones, the demo's, and the user's own."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edge_llava.conversion.convert import convert
from edge_llava.conversion.measuring_set import MeasuringSet
from edge_llava.converters.dialogue import Dialogue
from edge_llava.converters.options import ConvertOptions
from edge_llava.errors import DataError, ImageError

pytestmark = pytest.mark.convert


@pytest.fixture
def images(tmp_path):
    """A directory of two images."""
    for name, side in (("a.png", 40), ("b.jpg", 60)):
        Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(tmp_path / name)
    return tmp_path


def record(image, *said):
    values = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
    return {"id": "1", "image": image, "conversations": values} if image else {"id": "1", "conversations": values}


def choose(*, is_demo=False, **options):
    return MeasuringSet.choose(ConvertOptions(**options), is_demo=is_demo)


def test_builtin_images_have_a_dialogue_each():
    found = choose(imatrix="auto")
    images = list(found.images())
    assert [dialogue.image for dialogue in found.dialogues] == list(range(len(images)))
    assert all(question and answer for dialogue in found.dialogues for question, answer in dialogue.turns)


def test_the_demo_is_asked_about_what_it_knows():
    found = choose(is_demo=True, imatrix="auto")
    assert len(found.dialogues) == 64
    assert all(dialogue.image < 64 for dialogue in found.dialogues)
    assert len(list(found.images())) == 64 + 14  # int8 is measured on the built-in ones, too


def test_own_images_without_conversations(images):
    found = choose(imatrix=str(images))
    images = list(found.images())
    assert [image.shape[0] for image in images[:2]] == [40, 60]
    assert len(images) == 2 + 14  # int8 is measured on the built-in ones, too
    assert [dialogue.image for dialogue in found.dialogues] == [0, 1]


@pytest.mark.parametrize("name", ["said.json", "said.jsonl"])
def test_own_conversations(images, name):
    records = [
        record("b.jpg", "<image>\nWhat?", "A dog.", "Why?", "It barks."),
        record(None, "Hello", "Hi"),
        record("a.png", "Who?\n<image>", "Nobody."),
        record("b.jpg", "<image>\nWhere?", "Here."),
    ]
    lines = [json.dumps(each) for each in records]
    (images / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    found = choose(imatrix=str(images))
    assert [image.shape[0] for image in found.images()][:3] == [60, 40, 60]
    assert found.dialogues == (
        Dialogue(0, (("What?", "A dog."), ("Why?", "It barks."))),
        Dialogue(1, (("Who?", "Nobody."),)),
        Dialogue(2, (("Where?", "Here."),)),
    )


def test_own_images_for_both(images):
    found = choose(imatrix=str(images), calibrate=str(images))
    assert [image.shape[0] for image in found.images()] == [40, 60, 40, 60]
    assert len(found.dialogues) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "said.json is not JSON"),
        (json.dumps([record("c.png", "<image>\nWhat?", "A dog.")]), "c.png is missing"),
        (json.dumps([record(None, "Hello", "Hi")]), "none of the conversations is about an image"),
    ],
)
def test_conversations_that_cannot_be_used(images, text, fault):
    (images / "said.json").write_text(text)
    with pytest.raises(DataError, match=fault):
        choose(imatrix=str(images))


def test_a_directory_without_images(tmp_path):
    with pytest.raises(ImageError, match="contains no images to measure with"):
        choose(imatrix=str(tmp_path / "missing"))


def test_a_conversion_on_own_conversations(make_checkpoint, shape, images, read_gguf):
    checkpoint = make_checkpoint(shape(width=256, ff=256, layers=2), seed=73)
    (images / "said.json").write_text(json.dumps([record("a.png", "<image>\nWhat is this?", "A gray square.")]))
    out = images / "bundles"
    with_, without = (
        convert(checkpoint, out / str(imatrix is None), ConvertOptions(quant="Q2_K", vision="fp32", imatrix=imatrix))
        for imatrix in (str(images), None)
    )
    assert with_.manifest.language.importance.n_dialogues == 1
    assert without.manifest.language.importance is None
    a, b = (read_gguf(bundle.file("language")).tensors for bundle in (with_, without))
    assert a["token_embd.weight"] == b["token_embd.weight"]
    assert all(a[name][2] != b[name][2] for name in a if name.startswith("blk.") and len(a[name][1]) > 1)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--quant", "F16", "--imatrix", "auto"], "changes nothing about F16"),
        (["--quant", "Q4_K_M", "--size", "3GB"], "use one of them"),
        (["--size", "3GB", "--for", "4GB"], "use one of them"),
        (["--size", "much"], "much"),
    ],
)
def test_options_that_do_not_go_together(arguments, fault):
    command = [sys.executable, "-m", "edge_llava.cli", "convert", "demo", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert fault in result.stderr


def test_a_size_without_a_checkpoint_says_what_would_be_made(tmp_path):
    command = [sys.executable, "-m", "edge_llava.cli", "convert", "--size", "3.5GB", "-o", str(tmp_path / "b")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert "convert it to 3.5 GB" in result.stderr


def test_an_exact_quantization_that_was_chosen_is_not_measured(make_checkpoint, shape, tmp_path):
    from edge_llava.fitting.room import Room

    said = []
    checkpoint, options = make_checkpoint(shape(layers=1), seed=74), ConvertOptions(vision="fp32", imatrix="auto")
    bundle = convert(checkpoint, tmp_path / "b", options, room=Room(10**11), most_exact=True, warn=said.append)
    assert bundle.manifest.language.quant == "Q8_0"
    assert bundle.manifest.language.importance is None
    assert any("--imatrix changes nothing about Q8_0" in text for text in said)
