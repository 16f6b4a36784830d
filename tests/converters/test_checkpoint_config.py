"""What is read from a checkpoint's JSON files, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_llava.converters.checkpoint_config import (
    LanguageConfig,
    TowerConfig,
    read_checkpoint_config,
    read_tower_config,
)
from edge_llava.converters.taps import count_blocks
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

# As llava-hf/llava-1.5-7b-hf: the language model's sizes are left to LlamaConfig.
SPARSE_HF = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_index": 32000,
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "vocab_size": 32064,
    },
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
# As liuhaotian/llava-v1.5-7b.
ORIGINAL = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "max_position_embeddings": 4096,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
    "image_aspect_ratio": "pad",
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}
VICUNA_7B = LanguageConfig(
    n_embd=4096, n_ff=11008, n_layer=32, n_head=32, n_head_kv=32, head_dim=128, n_rows=32064, n_ctx_train=4096,
    rms_eps=1e-5, rope_theta=10000.0, rope_factor=None, tied=False,
)  # fmt: skip
CLIP_L_336 = TowerConfig(1024, 4096, 24, 16, 336, 14, 1e-5, "quick_gelu")


@pytest.fixture
def read(tmp_path: Path):
    """read(config, preprocessor=None) -> CheckpointConfig."""

    def write_and_read(config: Any, preprocessor: Any = None) -> Any:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        if preprocessor is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return read_checkpoint_config(tmp_path)

    return write_and_read


def with_text(**changes: Any) -> dict[str, Any]:
    return SPARSE_HF | {"text_config": SPARSE_HF["text_config"] | changes}


def with_vision(**changes: Any) -> dict[str, Any]:
    return SPARSE_HF | {"vision_config": SPARSE_HF["vision_config"] | changes}


def test_sparse_hub_config(read):
    config = read(SPARSE_HF)
    assert config.layout == "hf"
    assert config.language == VICUNA_7B
    assert config.tower == CLIP_L_336
    assert (config.feature_layer, config.drop_cls, config.image_token) == (-2, True, 32000)
    assert config.image_mean == (0.48145466, 0.4578275, 0.40821073)
    assert config.image_std == (0.26862954, 0.26130258, 0.27577711)


def test_absent_sections_take_the_defaults_of_transformers(read):
    from transformers import LlavaConfig

    config, theirs = read({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}), LlavaConfig()
    language, text, tower, vision = config.language, theirs.text_config, config.tower, theirs.vision_config
    assert (language.n_embd, language.n_ff, language.n_layer) == (
        text.hidden_size,
        text.intermediate_size,
        text.num_hidden_layers,
    )
    assert (language.n_head, language.n_head_kv, language.head_dim) == (
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim,
    )
    assert (language.n_ctx_train, language.rms_eps, language.rope_theta) == (
        text.max_position_embeddings,
        text.rms_norm_eps,
        text.rope_theta,
    )
    assert (tower.hidden_size, tower.intermediate_size, tower.n_layers, tower.n_heads) == (
        vision.hidden_size,
        vision.intermediate_size,
        vision.num_hidden_layers,
        vision.num_attention_heads,
    )
    assert (tower.image_size, tower.patch_size) == (vision.image_size, vision.patch_size)
    assert (tower.layer_norm_eps, tower.hidden_act) == (vision.layer_norm_eps, vision.hidden_act)
    assert config.feature_layer == theirs.vision_feature_layer


def test_sparse_vision_config_takes_clips_defaults(read):
    from transformers import CLIPVisionConfig

    tower, theirs = read(SPARSE_HF | {"vision_config": {"model_type": "clip_vision_model"}}).tower, CLIPVisionConfig()
    assert tower == TowerConfig(
        theirs.hidden_size,
        theirs.intermediate_size,
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
        theirs.image_size,
        theirs.patch_size,
        theirs.layer_norm_eps,
        theirs.hidden_act,
    )


def test_original_config(read):
    config = read(ORIGINAL)
    assert (config.layout, config.tower, config.tower_reference) == (
        "original",
        None,
        "openai/clip-vit-large-patch14-336",
    )
    assert (config.feature_layer, config.drop_cls, config.aspect, config.image_token) == (-2, True, "pad", None)
    language = config.language
    assert (language.n_embd, language.n_ff, language.n_layer, language.n_head) == (5120, 13824, 40, 40)
    assert (language.head_dim, language.n_rows, language.n_ctx_train) == (128, 32000, 4096)


@pytest.mark.parametrize(
    ("changes", "aspect", "drop_cls", "layer"),
    [
        ({"image_aspect_ratio": "square"}, "crop", True, -2),
        ({"image_aspect_ratio": None}, "crop", True, -2),
        ({"mm_vision_select_feature": "cls_patch"}, "pad", False, -2),
        ({"mm_vision_select_layer": -1}, "pad", True, -1),
    ],
)
def test_original_choices(read, changes, aspect, drop_cls, layer):
    config = read(ORIGINAL | changes)
    assert (config.aspect, config.drop_cls, config.feature_layer) == (aspect, drop_cls, layer)


def test_an_original_without_an_aspect_crops(read):
    assert read({key: value for key, value in ORIGINAL.items() if key != "image_aspect_ratio"}).aspect == "crop"


@pytest.mark.parametrize(
    ("preprocessor", "aspect"), [({}, "pad"), ({"do_pad": True}, "pad"), ({"do_pad": False}, "crop")]
)
def test_hf_aspect(read, preprocessor, aspect):
    assert read(SPARSE_HF, preprocessor).aspect == aspect


def test_normalization_is_the_processors(read):
    config = read(SPARSE_HF, {"image_mean": [0.5, 0.25, 0.125], "image_std": [1, 2, 3]})
    assert (config.image_mean, config.image_std) == ((0.5, 0.25, 0.125), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"num_key_value_heads": 8}, "n_head_kv", 8),
        ({"head_dim": 64}, "head_dim", 64),
        ({"head_dim": None, "num_key_value_heads": None}, "head_dim", 128),
        ({"rope_theta": 5e6}, "rope_theta", 5e6),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_factor", 4.0),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, "rope_factor", 2.0),
        ({"rope_scaling": {"rope_type": "default"}}, "rope_factor", None),
        ({"tie_word_embeddings": True}, "tied", True),
    ],
)
def test_language_fields(read, changes, field, expected):
    assert getattr(read(with_text(**changes)).language, field) == expected


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (with_vision(model_type="pixtral"), "'pixtral' tower"),
        (with_vision(model_type="siglip"), "'siglip' tower"),
        ({"architectures": ["LlavaMPTForCausalLM"], "model_type": "llava_mpt", "mm_hidden_size": 1}, "LlavaMPTForCaus"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"}, "Qwen2VL"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"model_type": "clip"}, "clip"),
        ({}, "an unknown family"),
    ],
)
def test_other_families_are_named(read, config, family):
    with pytest.raises(CheckpointError) as error:
        read(config)
    assert family in str(error.value)
    assert "Supported: LLaVA v0 to 1.6 and OneVision with a CLIP or SigLIP tower" in str(error.value)


ANYRES = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type is 'mlp3x_gelu', expected 'linear' or 'mlp2x_gelu'"),
        ({"s2": True}, "s2 (multi-scale towers) is not supported"),
        ({"use_s2": True}, "s2 (multi-scale towers) is not supported"),
        ({"image_aspect_ratio": "anyres_max_x"}, "image_aspect_ratio is 'anyres_max_x', expected 'anyres' or"),
        ({"image_aspect_ratio": "anyres"}, "image_grid_pinpoints is None, expected a list of pairs of pixels"),
        (ANYRES | {"image_grid_pinpoints": "[(336, 672), 5]"}, "image_grid_pinpoints is '[(336, 672), 5]', expected"),
        (ANYRES | {"image_grid_pinpoints": [[[336, 672]]]}, "image_grid_pinpoints is [[[336, 672]]], expected"),
        (ANYRES | {"image_grid_pinpoints": "__import__('os')"}, "image_grid_pinpoints is "),
        (ANYRES | {"mm_patch_merge_type": "unpad"}, "mm_patch_merge_type is 'unpad', expected 'flat', 'spatial' or"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature is 'cls'"),
        ({"mm_vision_select_layer": [-2, -5]}, "mm_vision_select_layer is [-2, -5], expected one integer"),
    ],
)
def test_originals_that_are_refused(read, changes, fault):
    with pytest.raises(CheckpointError) as error:
        read(ORIGINAL | changes)
    assert fault in str(error.value)


def test_an_original_without_a_projector_type_is_linear(read):
    assert read(ORIGINAL).projector_kind == "mlp2x_gelu"
    assert (
        read({key: value for key, value in ORIGINAL.items() if key != "mm_projector_type"}).projector_kind == "linear"
    )


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (with_text(model_type="gemma"), "text_config.model_type is 'gemma', expected 'llama' or 'mistral' or 'qwen2'"),
        (SPARSE_HF | {"vision_feature_select_strategy": "cls"}, "vision_feature_select_strategy is 'cls'"),
        (SPARSE_HF | {"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        (SPARSE_HF | {"multimodal_projector_bias": False}, "multimodal_projector_bias is false"),
        (SPARSE_HF | {"vision_feature_layer": [-2, -5]}, "vision_feature_layer is [-2, -5], expected one integer"),
        (with_text(rope_scaling={"rope_type": "yarn", "factor": 2}), "rope_scaling is 'yarn'"),
        (with_text(rope_scaling="long"), "rope_scaling is 'long'"),
        (with_text(hidden_act="gelu"), "hidden_act is 'gelu', expected 'silu'"),
        (with_text(attention_bias=True), "attention_bias is true"),
        (with_text(num_attention_heads=33), "hidden_size 4096 is not a multiple of num_attention_heads 33"),
        (with_text(num_key_value_heads=5), "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
        (with_text(head_dim=127), "head_dim 127 is odd"),
        (with_text(rms_norm_eps=float("inf")), "rms_norm_eps is inf"),
        (with_vision(patch_size=337), "vision image_size 336 is smaller than patch_size 337"),
        (with_vision(num_attention_heads=15), "vision hidden_size 1024 is not a multiple of its 15 heads"),
    ],
)
def test_hf_configs_that_are_refused(read, config, fault):
    with pytest.raises(CheckpointError) as error:
        read(config)
    assert fault in str(error.value)


def test_wrong_types_are_listed_all_at_once(read):
    text = {"hidden_size": "4096", "num_hidden_layers": 0, "vocab_size": True, "rms_norm_eps": "small"}
    vision = {"image_size": 336.0, "num_hidden_layers": -1, "layer_norm_eps": None}
    with pytest.raises(CheckpointError) as error:
        read(
            SPARSE_HF | {"text_config": text, "vision_config": vision, "vision_feature_layer": None},
            {"image_mean": [0.5, 0.5], "image_std": [0, 1, 1]},
        )
    lines = str(error.value).splitlines()
    assert lines[0].endswith("config.json cannot be converted:")
    assert {line.strip("- ").split(" is ")[0] for line in lines[1:-1]} == {
        "vision_config.image_size",
        "vision_config.num_hidden_layers",
        "layer_norm_eps",
        "vision_feature_layer",
        "preprocessor_config.json: image_mean",
        "preprocessor_config.json: image_std",
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "rms_norm_eps",
    }


@pytest.mark.parametrize(
    "config",
    [
        SPARSE_HF | {"text_config": "vicuna"},
        SPARSE_HF | {"vision_config": [1, 2]},
        SPARSE_HF | {"architectures": "LlavaForConditionalGeneration"},
        SPARSE_HF | {"image_token_index": "32000"},
        ORIGINAL | {"mm_vision_tower": 7},
    ],
)
def test_sections_of_the_wrong_type_are_refused(read, config):
    with pytest.raises(CheckpointError, match="expected"):
        read(config)


def test_a_directory_without_config_is_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json"):
        read_checkpoint_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "\x00", '{"a": 1} {'])
def test_broken_json(read, text):
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        read(text)


def test_bytes_that_are_not_text(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        read_checkpoint_config(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", '"llava"', "null"])
def test_json_that_is_not_an_object(read, text):
    with pytest.raises(CheckpointError, match=r"config\.json does not contain a JSON object"):
        read(text)


@pytest.mark.parametrize("nested", [True, False])
def test_a_tower_on_its_own(tmp_path, nested):
    vision = SPARSE_HF["vision_config"]
    config = {"model_type": "clip", "vision_config": vision} if nested else vision
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_tower_config(tmp_path) == CLIP_L_336


def test_a_tower_of_another_kind(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "vision_config": {"image_size": 0}}))
    with pytest.raises(CheckpointError) as error:
        read_tower_config(tmp_path)
    assert "model_type is 'vit', expected a CLIP or SigLIP model" in str(error.value)
    assert "vision_config.image_size is 0, expected a positive integer" in str(error.value)


@pytest.mark.parametrize(
    ("layer", "n_layers", "expected"), [(-2, 24, 23), (-1, 24, 24), (-24, 24, 1), (1, 24, 1), (24, 24, 24), (7, 12, 7)]
)
def test_blocks_that_a_feature_layer_needs(layer, n_layers, expected):
    assert count_blocks(layer, n_layers) == expected


@pytest.mark.parametrize("layer", [0, 25, -25, -26, 100])
def test_feature_layers_that_do_not_exist(layer):
    with pytest.raises(CheckpointError, match=f"feature layer {layer} does not exist in a tower of 24 blocks"):
        count_blocks(layer, 24)
