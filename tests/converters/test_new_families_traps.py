"""What newer families get wrong easily, where no other test sees it: ends, tied heads, unread keys, names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_checkpoints as made
import family_originals as originals
import numpy as np
import pytest
from checkpoint_layouts import edit_json

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.reference_model import check_reading
from edge_llava.converters.taps import FeatureTap
from edge_llava.converters.template_choice import checkpoint_template
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

END, EOT = 417, 425  # <|end_of_text|>, <|eot_id|>
GREEDY = edge_llava.SamplingOptions(temperature=0, max_new_tokens=16)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


def ask(bundle: Path, image: np.ndarray) -> list[Any]:
    with edge_llava.load(bundle) as model:
        return list(model.session(GREEDY).ask("What is it?", image=image))


def test_answers_end_with_a_token_that_no_config_names(directory, convert_to, make_image, weights_of, put_weights):
    """Every config names <|end_of_text|>; answers end with <|eot_id|>."""
    made.xtuner_llama_3_transformers(directory, 3)
    image = make_image(60, 90, 3)
    tokens = [token.id for token in ask(convert_to(directory, quant="F32"), image)]
    assert len(tokens) == 16
    n_before = next(n for n in range(3, 16) if tokens[n] not in tokens[:n])
    tensors = weights_of(directory)
    head = tensors["language_model.lm_head.weight"]
    head[EOT] = 1.001 * head[tokens[n_before]]
    put_weights(directory, tensors)
    bundle = convert_to(directory, quant="F32")
    *answer, last = ask(bundle, image)
    assert [token.id for token in answer] == tokens[:n_before]
    assert (last.id, last.finish_reason) == (EOT, "stop")
    language = Bundle.open(bundle).manifest.language
    assert (language.eos, language.end_ids) == (END, (END, EOT))


def test_a_list_of_ends(directory):
    made.joycaption(directory, 1)
    checkpoint = Checkpoint.open(str(directory))
    assert (checkpoint.vocabulary.eos, checkpoint.vocabulary.end_ids) == (417, (417, 424, 425))


def test_a_tied_head_is_stated_in_text_config(directory, weights_of):
    """The outer config says the contrary, as published, and the file has no head."""
    made.onevision(directory, 1)
    config = json.loads((directory / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]) == (False, True)
    assert not any("lm_head" in name for name in weights_of(directory))
    checkpoint = Checkpoint.open(str(directory))
    assert checkpoint.config.language.tied
    assert "language.lm_head.weight" not in checkpoint.language_tensors()


def test_a_head_that_is_not_tied_must_be_there(directory, weights_of, put_weights):
    made.onevision(directory, 1, tied=False)
    put_weights(directory, {name: t for name, t in weights_of(directory).items() if "lm_head" not in name})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        check_reading(Checkpoint.open(str(directory)))


def test_windows_that_mean_nothing(directory, seeded_checkpoint, tmp_path):
    """Phi-3's, whose model is a LLaMA, and a Qwen's that is switched off."""
    made.phi_3_mini(directory, 4, (seeded_checkpoint / "tokenizer.model").read_bytes())
    assert Checkpoint.open(str(directory)).config.language.n_ctx_train == 4096
    other = made.interleave(tmp_path / "interleave", 5).directory
    config = json.loads((other / "config.json").read_text())
    config["text_config"] |= {"sliding_window": 1024, "use_sliding_window": False}
    edit_json(other / "config.json", config)
    assert Checkpoint.open(str(other)).config.language.n_ctx_train == 32768


def test_an_original_onevision_ignores_layer_and_feature(directory):
    """Its config says -2 and "patch", as published; its twin in Hugging Face layout holds a block more."""
    checkpoint = originals.onevision_original(directory, 7)
    config = json.loads((directory / "config.json").read_text())
    assert (config["mm_vision_select_layer"], config["mm_vision_select_feature"]) == (-2, "patch")
    taps = [Checkpoint.open(str(source)).tap for source in (checkpoint.directory, checkpoint.twin)]
    assert taps == [FeatureTap(n_blocks=2, n_dropped_rows=0)] * 2


def test_an_original_onevision_ignores_rope_scaling(directory):
    originals.onevision_original(directory, 7)
    assert json.loads((directory / "config.json").read_text())["rope_scaling"] is not None
    assert Checkpoint.open(str(directory)).config.language.rope_factor is None


@pytest.mark.parametrize("layer", [0, 1])
def test_a_bias_that_nobody_would_read(directory, weights_of, put_weights, layer):
    originals.bunny_llama(directory, 1)
    tensors = weights_of(directory)
    name = f"model.layers.{layer}.self_attn.q_proj.bias"
    put_weights(directory, tensors | {name: tensors["model.norm.weight"].clone()})
    with pytest.raises(CheckpointError, match=rf"{name}"):
        Checkpoint.open(str(directory))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (originals.xtuner_llama_3_original, "llama_3"),
        (made.llama_3_next, "llama_3_vision"),
        (originals.llama_3_next_original, "llama_3_vision"),
        (made.interleave, "interleave"),
        (made.onevision, "chatml"),
        (originals.onevision_original, "qwen_chatml"),
        (made.joycaption, "joycaption"),
        (originals.nanollava, "chat_template"),
        (originals.bunny_llama, "bunny_llama_3"),
        (originals.bunny_qwen, "bunny_endoftext"),
        (originals.clip_qwen_2, "qwen_chatml"),
    ],
)
def test_templates_are_found(directory, make, name):
    make(directory, 1)
    assert checkpoint_template(Checkpoint.open(str(directory)), None).name == name


def test_a_qwen_of_another_system_text(directory):
    """Relatives on Qwen 2.5 were trained by its chat template."""
    originals.clip_qwen_2(directory, 1)
    path = directory / "tokenizer_config.json"
    text = json.loads(path.read_text())["chat_template"]
    assert "You are a helpful assistant." in text
    ours = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    edit_json(path, {"chat_template": text.replace("You are a helpful assistant.", ours)})
    assert checkpoint_template(Checkpoint.open(str(directory)), None).system == ours
