"""The parts of the demo's recipe, and the recipe itself on a handful of scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from demo_checkpoint.card import write_card
from demo_checkpoint.renderings import render
from demo_checkpoint.tower import PHRASES, region_labels
from demo_checkpoint.vocabulary import N_TOKENS, DemoTokenizer
from edge_llava.scenes.questions import KINDS
from edge_llava.scenes.scene import Scene, SceneObject, sample_scenes

pytestmark = pytest.mark.convert


def test_patches_are_labelled_with_what_they_show():
    ring = SceneObject("ring", "red", "large", x=0.31, y=0.31, radius=0.18, angle=0.0)
    star = SceneObject("star", "blue", "small", x=0.8, y=0.7, radius=0.1, angle=0.3)
    regions = region_labels(Scene(0, (ring, star))).reshape(8, 8, 3)
    labels = regions[..., 0]
    assert PHRASES[labels[2, 2]] == "a large red ring"  # its centre, though a hole
    assert PHRASES[labels[5, 6]] == "a small blue star"
    assert {PHRASES[index] for index in labels[1:4, 1:4].flat} == {"a large red ring", "part of a large red ring"}
    assert (labels == PHRASES.index("a large red ring")).sum() == 1
    assert {PHRASES[index] for index in labels[:, 7]} == {"the background"}
    # the middle of the object, wherever on it the patch is; of the patch itself on the background
    assert {tuple(place) for place in regions[1:4, 1:4, 1:].reshape(-1, 2)} == {(4, 4)}
    assert regions[5, 6, 1:].tolist() == [12, 11]
    assert regions[0, 7, 1:].tolist() == [15, 1]


def test_every_object_has_its_centre():
    for scene in islice(sample_scenes("train", 5), 300):
        centres = [PHRASES[index] for index in region_labels(scene)[:, 0] if PHRASES[index].startswith("a ")]
        assert sorted(centres) == sorted(f"a {thing.phrase}" for thing in scene.objects)


def test_vocabulary_is_like_llamas(tokenizer_model, slow_tokenizer):
    tokenizer = DemoTokenizer(tokenizer_model)
    assert len(tokenizer) == N_TOKENS
    # words of the domain are one token, the newline is a byte, and nothing is unknown
    pieces = [piece.strip("▁") for piece in slow_tokenizer.tokenize("There is a large purple triangle.")]
    assert pieces == ["There", "is", "a", "large", "purple", "triangle", "."]
    assert slow_tokenizer.tokenize("\nIs") == ["▁", "<0x0A>", "Is"]
    assert 0 not in tokenizer.encode("Überall 東京 🚲")
    assert tokenizer.encode("a", add_special_tokens=True)[0] == 1


def test_renderings_are_drawn_once(tmp_path):
    scenes = list(islice(sample_scenes("train", 6), 3))
    drawn = np.array(render(scenes, 28, tmp_path / "pixels.npy"))
    assert drawn.shape == (3, 28, 28, 3)
    stamp = (tmp_path / "pixels.npy").stat().st_mtime_ns
    assert (render(scenes, 28, tmp_path / "pixels.npy") == drawn).all()
    assert (tmp_path / "pixels.npy").stat().st_mtime_ns == stamp


def test_card_tells_all_scores():
    marks = {kind: {"value": 0.9 + index / 100, "n": 10, "low": 0.8, "high": 0.99} for index, kind in enumerate(KINDS)}
    scores = {
        "accuracy": marks, "shuffled": {kind: {"value": 0.2} for kind in KINDS},
        "guessing": dict.fromkeys(KINDS, 0.4), "overall": 0.931, "shuffled_overall": 0.2, "guessing_overall": 0.4,
        "description": {"precision": 0.97, "recall": 0.955}, "seed": 7, "n": 1000,
    }  # fmt: skip
    card = write_card(scores, {**scores, "overall": 0.925})
    assert "| existence | 90.0 % | 80.0 % to 99.0 % | 20.0 % | 40.0 % | 90.0 % |" in card
    assert "| **overall** | **93.1 %** | | 20.0 % | 40.0 % | 92.5 % |" in card
    assert "precision 97.0 %, recall 95.5 %" in card


@pytest.mark.slow
def test_the_recipe_on_a_handful_of_scenes(tmp_path, convert_to):
    from demo_checkpoint.recipe import Amounts, make_demo

    few = Amounts(tower=128, tower_epochs=1, language=64, pictures=64, conversations=1)
    make_demo(tmp_path / "demo", tmp_path / "work", few)
    weights = (tmp_path / "demo" / "model.safetensors").read_bytes()
    assert len(weights) < 32 << 20
    manifest = json.loads((convert_to(tmp_path / "demo", quant="Q4_K_M") / "manifest.json").read_text())
    assert manifest["parity"]["tokenizer"]["tokens_equal"] == manifest["parity"]["tokenizer"]["tokens_total"]
    assert all(figure["cosine_min"] > 0.9 for stage, figure in manifest["parity"].items() if stage == "vision")
    # what is there is not made again; what is not, is
    make_demo(tmp_path / "again", tmp_path / "work", replace(few))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights
