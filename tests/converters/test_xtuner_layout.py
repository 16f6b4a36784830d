"""xtuner's layout: parts are read as transformers and peft read them; what is missing or something else is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import family_parts_apart as apart
import numpy as np
import pytest
import torch
from checkpoint_layouts import Made, edit_json
from family_parts import QWEN, SIGLIP_27, SIGLIP_PROCESSOR
from family_tokenizers import qwen_2_tokenizer
from safetensors.torch import load, save_file

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.decoders import QWEN2
from edge_llava.converters.parts_config import _TEMPLATES
from edge_llava.converters.reference import reference_rows
from edge_llava.converters.reference_model import ReferenceModel, check_reading
from edge_llava.converters.taps import FeatureTap
from edge_llava.converters.template_choice import checkpoint_template
from edge_llava.converters.xtuner_config import XtunerConfig, read_xtuner_config
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

ADAPTER = "visual_encoder_adapter"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Made]:
    """Checkpoints by how their tower and language model were trained; read only."""
    root = tmp_path_factory.mktemp("xtuner")
    return {
        "whole": apart.llama_3(root / "whole", 3),
        "adapters": apart.llama_3(root / "adapters", 3, "adapter", "adapter"),
        "frozen": apart.llama_3(root / "frozen", 3, "frozen", "frozen"),
    }


@pytest.fixture
def copy(made: Mapping[str, Made], tmp_path: Path) -> Callable[[str], Path]:
    """copy(name) -> a copy of the checkpoint that the test may change."""
    return lambda name: shutil.copytree(made[name].directory, tmp_path / name)


def refusal(directory: Path, **options: str) -> str:
    with pytest.raises(CheckpointError) as error:
        checkpoint_template(Checkpoint.open(str(directory), **options), None)
    return str(error.value)


def test_adapters_of_both_parts_are_merged_as_peft_merges_them(made):
    opened = Checkpoint.open(str(made["adapters"].directory), **made["adapters"].options)
    reference, merged = ReferenceModel(opened), Checkpoint.open(str(made["adapters"].twin))
    names = reference.deployed_names()
    reference.compare(names)
    for name in names:
        found = opened.load(name).float()
        assert (found - merged.load(name)[: len(found)]).abs().max() < 1e-6, name


def test_a_siglip_and_a_qwen(tmp_path):
    """Its tower keeps all rows, and images are padded before they are squashed."""
    write, keys = qwen_2_tokenizer(), {"eos_token_id": 511, "tie_word_embeddings": True}
    made = apart.apart(tmp_path / "qwen", 3, write, sections=(SIGLIP_27, QWEN, SIGLIP_PROCESSOR), **keys)
    opened = Checkpoint.open(str(made.directory))
    reference = ReferenceModel(opened)
    reference.compare(reference.deployed_names())
    assert (opened.tap, opened.config.aspect) == (FeatureTap(n_blocks=2, n_dropped_rows=0), "pad")
    assert (opened.config.image_mean, opened.config.language.dialect) == ((0.5, 0.5, 0.5), QWEN2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "silu"}, "hidden_act is 'silu', expected 'gelu'"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', expected 'gelu'"),
        ({"depth": 3}, "depth is 3, expected 1 or 2"),
        ({"depth": True}, "depth is True, expected 1 or 2"),
        ({"bias": False}, "bias is False, expected True"),
        ({"model_type": "qformer"}, "model_type is 'qformer', expected 'projector'"),
        ({"visual_hidden_size": 512}, "visual_hidden_size is 512, expected 128 (of the tower)"),
        ({"llm_hidden_size": 32}, "llm_hidden_size is 32, expected 64 (of the language model)"),
        ({"use_kernels": True}, "use_kernels is True"),
        ({"norm": "rms"}, "norm is 'rms': this key is not known here"),
    ],
)
def test_projectors_of_other_kinds(copy, changes, says):
    directory = copy("whole")
    edit_json(directory / "projector" / "config.json", changes)
    text = refusal(directory)
    assert "projector/config.json cannot be converted" in text
    assert says in text


def test_a_linear_projector(copy):
    directory = copy("whole")
    edit_json(directory / "projector" / "config.json", {"depth": 1})
    weights = directory / "projector" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load(weights.read_bytes()).items() if name.startswith("model.0.")}
    save_file(tensors, weights)
    checkpoint = Checkpoint.open(str(directory))
    check_reading(checkpoint)
    features = np.ones((1, 2, 128), np.float32)
    expected = tensors["model.0.weight"].sum(1) + tensors["model.0.bias"]
    assert np.abs(reference_rows(checkpoint, features) - expected.numpy()).max() < 1e-5


def test_layers_that_the_config_does_not_describe(copy):
    directory = copy("whole")
    edit_json(directory / "projector" / "config.json", {"depth": 1})
    assert "model.2.bias" in refusal(directory)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("type=LLaVAModel,", "type=LLaVAModel, token_merge_ratio=4,", "model.token_merge_ratio is 4, expected 1"),
        ("type=LLaVAModel,", "type=LLaVAModel, visual_select_layer=[-2, -5],", "visual_select_layer is '[-2, -5]'"),
        ("type=LLaVAModel,", "type='xtuner.model.AnyShapeLLaVAModel',", "model.type is 'AnyShapeLLaVAModel', expected"),
        ("import does_not_exist", "_base_ = ['./other.py']", "it continues another config (_base_ or read_base)"),
        ("import does_not_exist", "with read_base():\n    from .other import *", "it continues another config"),
        ("import does_not_exist", "model = dict(", "cannot be read: '(' was never closed"),
        ("import does_not_exist", "a = " + "[" * 9000, "cannot be read: too many nested parentheses"),
        ("import does_not_exist", "a" + ".b" * 20000, "cannot be read: maximum recursion depth"),
        ("import does_not_exist", "#" * 70_000, "at most 65536 are read"),
        ("llama3_chat", "mistral", "names the template 'mistral', which edge-llava does not have"),
        ("PROMPT_TEMPLATE.llama3_chat", "dict(SYSTEM='')", "names the template \"dict(SYSTEM='')\""),
    ],
)
def test_training_configs_of_other_models(copy, old, new, says):
    directory = copy("whole")
    path = directory / "xtuner_config.py"
    path.write_text(path.read_text().replace(old, new, 1))
    text = refusal(directory)
    assert "xtuner_config.py" in text
    assert says in text


def test_what_a_training_config_says(tmp_path):
    """As written by hand, and as mmengine saves it."""
    assert read_xtuner_config(tmp_path) == XtunerConfig()
    path = tmp_path / "xtuner_config.py"
    path.write_text(
        "layer = -3\nt = PROMPT_TEMPLATE.vicuna\nprompt_template = t\nmodel = dict(visual_select_layer=layer)"
    )
    assert read_xtuner_config(tmp_path) == XtunerConfig("vicuna", -3)
    path.write_text(
        "llm_name_or_path = 'a/b'\nvisual_encoder_name_or_path = 'c/d'\n"
        "prompt_template = 'xtuner.utils.PROMPT_TEMPLATE.phi3_chat'\n"
        "model = {'type': 'xtuner.model.LLaVAModel', 'token_merge_ratio': 1, 'visual_select_layer': -1, 'a\\d': 2}"
    )
    assert read_xtuner_config(tmp_path) == XtunerConfig("phi3_chat", -1, "a/b", "c/d")


def test_the_user_chooses_where_a_template_has_no_equal(copy):
    directory = copy("whole")
    path = directory / "xtuner_config.py"
    path.write_text(path.read_text().replace("llama3_chat", "mistral"))
    assert "--template" in refusal(directory)
    assert checkpoint_template(Checkpoint.open(str(directory)), "llama_3").name == "llama_3"


def test_without_a_training_config_the_tokenizer_decides(copy):
    directory = copy("whole")
    (directory / "xtuner_config.py").unlink()
    assert checkpoint_template(Checkpoint.open(str(directory)), None).name == "llama_3"
    assert set(_TEMPLATES.values()) == {"llama_3", "phi_3", "vicuna_xtuner"}


def test_parts_that_are_missing(copy, made):
    """Each time one more of them is given."""
    adapters, frozen, options = copy("adapters"), copy("frozen"), made["frozen"].options
    named = "Give the one that it was trained with: --base DIR; xtuner_config.py names 'meta-llama/Meta-Llama-3-8B"
    assert f"holds an adapter of its language model (llm_adapter/). {named}" in refusal(adapters)
    assert f"holds no language model. {named}" in refusal(frozen)
    text = refusal(frozen, base=options["base"])
    assert "contains no vision tower; it names 'openai/clip-vit-large-patch14-336', which is not a directory" in text
    assert "--vision-tower DIR" in text
    whole = copy("whole")
    shutil.rmtree(whole / "visual_encoder")
    assert "contains no vision tower; it names 'openai/clip" in refusal(whole)


@pytest.mark.parametrize("kind", ["adapters", "frozen"])
def test_positions_that_only_training_knew(copy, made, kind):
    """xtuner scales the positions of the model that it loads, and saves none of it with an adapter."""
    directory, options = copy(kind), made[kind].options
    path = directory / "xtuner_config.py"
    text = path.read_text()
    path.write_text(text.replace("type=LLaVAModel,", "type=LLaVAModel, max_position_embeddings=n,") + "n = 32768\n")
    assert "stretched 8,192 positions to 32,768" in refusal(directory, **options)
    base = shutil.copytree(options["base"], directory.parent / "base")
    scaled = {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 32768}
    edit_json(base / "config.json", scaled)
    assert Checkpoint.open(str(directory), options["vision_tower"], str(base)).config.language.rope_factor == 4.0


def test_parts_that_are_there_twice(copy, made):
    whole, adapters = copy("whole"), made["adapters"]
    options = adapters.options
    assert "holds its own language model; --base would replace it" in refusal(whole, base=options["base"])
    text = refusal(whole, vision_tower=options["vision_tower"])
    assert "holds its own vision tower; --vision-tower would replace it" in text
    shutil.copytree(adapters.directory / ADAPTER, whole / ADAPTER)
    assert "contains a whole tower in visual_encoder/ and visual_encoder_adapter/" in refusal(whole)
    shutil.copytree(adapters.directory / "llm_adapter", whole / "llm_adapter")
    assert "contains a whole language model and llm_adapter/" in refusal(whole)


@pytest.mark.parametrize(
    ("part", "tensor", "fault"),
    [
        (
            ADAPTER,
            "vision_model.encoder.layers.0.mlp.fc1",
            "vision.encoder.layers.0.mlp.fc1.weight has shape (160, 128)",
        ),
        ("llm_adapter", "model.layers.0.mlp.up_proj", "language.layers.0.mlp.up_proj.weight has shape (160, 64)"),
    ],
)
def test_adapters_of_another_width(copy, made, part, tensor, fault):
    directory = copy("adapters")
    path = directory / part / "adapter_model.safetensors"
    tensors = load(path.read_bytes()) | {f"base_model.model.{tensor}.lora_A.weight": torch.ones(4, 96)}
    save_file(tensors, path)
    text = refusal(directory, **made["adapters"].options)
    assert f"{part} does not fit its base" in text
    assert fault in text


def test_an_adapter_of_what_is_no_part(copy, made):
    """An adapter of a whole LLaVA names its modules otherwise."""
    directory = copy("adapters")
    path = directory / ADAPTER / "adapter_model.safetensors"
    tensors = {
        name.replace("vision_model.", "vision_tower.vision_model."): t for name, t in load(path.read_bytes()).items()
    }
    save_file(tensors, path)
    assert "which is not part of a LLaVA" in refusal(directory, **made["adapters"].options)


@pytest.mark.parametrize("part", ["", "visual_encoder", "projector"])
def test_files_that_are_cut_short(copy, part):
    directory = copy("whole")
    path = directory / part / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    text = refusal(directory)
    assert f"{path} is damaged or cut short" in text


@pytest.mark.parametrize("part", ["visual_encoder", "projector"])
def test_directories_without_weights(copy, part):
    directory = copy("whole")
    (directory / part / "model.safetensors").unlink()
    assert f"{directory / part} has no weights" in refusal(directory)


def test_a_tokenizer_that_is_missing(copy):
    directory = copy("whole")
    for path in directory.glob("tokenizer*"):
        path.unlink()
    assert "has neither tokenizer.model nor tokenizer.json" in refusal(directory)


@pytest.mark.parametrize(
    ("part", "model_type", "says"),
    [
        ("", "phi3", "model_type is 'phi3', expected 'llama' or 'mistral' or 'qwen2'"),
        ("visual_encoder", "dinov2", "model_type is 'dinov2', expected a CLIP or SigLIP model"),
    ],
)
def test_parts_of_other_kinds(copy, part, model_type, says):
    directory = copy("whole")
    edit_json(directory / part / "config.json", {"model_type": model_type})
    assert says in refusal(directory)


def test_an_image_processor_that_does_something_else(copy):
    directory = copy("whole")
    edit_json(directory / "visual_encoder" / "preprocessor_config.json", {"resample": 2})
    text = refusal(directory)
    assert "resample is 2, expected 3 (bicubic)" in text


@pytest.mark.parametrize("part", ["", "visual_encoder", "projector"])
def test_tensors_without_a_use(copy, weights_of, put_weights, part):
    directory = copy("whole")
    tensors: dict[str, Any] = weights_of(directory / part)
    put_weights(directory / part, tensors | {"model.router.weight": torch.ones(2, 2)})
    assert "model.router.weight" in refusal(directory)


def test_code_of_a_checkpoint_is_not_run(copy):
    """Its files raise SystemExit."""
    directory = copy("whole")
    config = json.loads((directory / "projector" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_projector.ProjectorModel"
    check_reading(Checkpoint.open(str(directory)))
