"""The demo checkpoint and its pictures, as they are shipped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import edge_llava
from edge_llava import demo
from edge_llava.evaluation.bundle_answerer import BundleAnswerer
from edge_llava.evaluation.scene_scores import evaluate_scenes
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.scenes.drawing import draw_scene
from edge_llava.training.instructions.scene_facts import parse_scene

ONE_THREAD = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)
GOALS = {
    "existence": 0.95, "colour": 0.95, "shape": 0.95, "count": 0.9, "size": 0.9, "relation": 0.85, "comparison": 0.85,
}  # fmt: skip


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """examine(bundle, n) -> figures of a bundle in an exam of n pictures that no other exam has."""

    def run(bundle, n):
        monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path))
        with edge_llava.load(bundle, ONE_THREAD) as model:
            return evaluate_scenes(BundleAnswerer(model), seed=2, n=n).to_dict()

    return run


def test_it_sees(examine, demo_bundle):
    figures = examine(demo_bundle, 40)
    assert figures["overall"] >= 0.88  # of some 250 questions: the goal of 0.92 less what chance may take
    assert figures["shuffled_overall"] < 0.5
    assert figures["description"]["precision"] > 0.8
    assert figures["description"]["recall"] > 0.8


@pytest.mark.slow
@pytest.mark.convert
def test_it_reaches_its_goals(examine, demo_bundle, convert_to):
    figures = examine(convert_to(demo.CHECKPOINT, quant="F16"), 1000)
    assert {kind: marks["value"] for kind, marks in figures["accuracy"].items() if marks["value"] < GOALS[kind]} == {}
    assert figures["overall"] >= 0.92
    assert figures["shuffled_overall"] <= figures["guessing_overall"] + 0.02
    assert min(figures["description"]["precision"], figures["description"]["recall"]) >= 0.9
    assert examine(demo_bundle, 1000)["overall"] >= figures["overall"] - 0.02


def test_it_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in demo.CHECKPOINT.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.model", "preprocessor_config.json", "README.md"} <= set(
        files
    )
    assert sum(files.values()) < 32 << 20
    config = json.loads((demo.CHECKPOINT / "config.json").read_text())
    widths = [
        config[part][name] for part in ("vision_config", "text_config") for name in ("hidden_size", "intermediate_size")
    ]
    assert all(width % 256 == 0 for width in widths)


def test_its_pictures_are_held_out_and_as_described():
    records = [json.loads(line) for line in (demo.PICTURES / "annotations.jsonl").read_text().splitlines()]
    assert len(records) >= 3
    for record in records:
        faults: list[str] = []
        scene = parse_scene(record["scene"], faults)
        assert scene is not None, faults
        assert scene.split == "held-out"
        with Image.open(demo.PICTURES / record["image"]) as picture:
            difference = np.abs(np.asarray(picture.convert("RGB"), int) - np.asarray(draw_scene(scene), int))
        assert difference.mean() < 1  # decoders of JPEG differ by little
