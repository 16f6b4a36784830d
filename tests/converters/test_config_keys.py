"""Every key of a config is read, known to change nothing, or refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from edge_llava.converters.checkpoint_config import read_checkpoint_config, read_tower_config
from edge_llava.converters.config_keys import find_unknown_keys
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

TEXT = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 576}
VISION = {"model_type": "clip_vision_model", "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 3}
HF = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": TEXT,
    "vision_config": VISION,
}
# The keys of liuhaotian/llava-v1.6-vicuna-7b and of llava-v1.6-mistral-7b, with sizes of the same kind.
ORIGINAL = {
    "_name_or_path": "./checkpoints/vicuna-7b", "architectures": ["LlavaLlamaForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "freeze_mm_mlp_adapter": False,
    "freeze_mm_vision_resampler": False, "hidden_act": "silu", "hidden_size": 4096, "image_aspect_ratio": "anyres",
    "image_crop_resolution": 224, "image_grid_pinpoints": [[336, 672], [672, 336]], "image_split_resolution": 224,
    "initializer_range": 0.02, "intermediate_size": 11008, "max_length": 4096, "max_position_embeddings": 4096,
    "mm_hidden_size": 1024, "mm_patch_merge_type": "spatial_unpad", "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_tower_lr": 2e-06, "model_type": "llava_llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 0,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16", "transformers_version": "4.36.2", "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": False, "unfreeze_mm_vision_tower": True, "use_cache": True, "use_mm_proj": True,
    "vocab_size": 32000,
    "auto_map": {"AutoConfig": "configuration_llava.LlavaConfig", "AutoModel": "modeling_llava.Llava"},
}  # fmt: skip


@pytest.fixture
def read(tmp_path: Path):
    """read(config, **other files) -> CheckpointConfig."""

    def write_and_read(config: dict[str, Any], **files: Any) -> Any:
        for name, data in (files | {"config": config}).items():
            (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
        return read_checkpoint_config(tmp_path)

    return write_and_read


@pytest.fixture
def refusal(read):
    """refusal(config, **other files) -> the message."""

    def refuse(config: dict[str, Any], **files: Any) -> str:
        with pytest.raises(CheckpointError) as error:
            read(config, **files)
        return str(error.value)

    return refuse


def with_text(**changes: Any) -> dict[str, Any]:
    return HF | {"text_config": TEXT | changes}


V5 = {"rope_type": "default", "rope_theta": 1e6}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}


@pytest.mark.parametrize(
    ("changes", "theta", "factor"),
    [
        ({}, 1e4, None),
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_parameters": None}, 1e4, None),
        ({"rope_parameters": {}}, 1e4, None),
        ({"rope_parameters": V5}, 1e6, None),
        ({"rope_parameters": {"rope_theta": 500000}}, 5e5, None),
        ({"rope_parameters": LINEAR}, 5e5, 4.0),
        ({"rope_parameters": {"type": "linear", "factor": 2}}, 1e4, 2.0),
        ({"rope_parameters": {"full_attention": LINEAR}}, 5e5, 4.0),
        ({"rope_parameters": {"full_attention": V5, "sliding_attention": V5}}, 1e6, None),
        ({"rope_parameters": V5 | {"partial_rotary_factor": 1.0, "attention_factor": None}}, 1e6, None),
        ({"rope_parameters": LINEAR, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}}, 5e5, 4.0),
        ({"rope_parameters": LINEAR, "rope_theta": None, "rope_scaling": None}, 5e5, 4.0),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4, "rope_theta": 1e6}}, 1e6, 4.0),
    ],
)
@pytest.mark.parametrize("layout", ["hf", "original"])
def test_rotary_positions(read, changes, theta, factor, layout):
    plain = {key: value for key, value in ORIGINAL.items() if not key.startswith("rope_")}
    language = read(with_text(**changes) if layout == "hf" else plain | changes).language
    assert (language.rope_theta, language.rope_factor) == (theta, factor)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rope_theta": 1e4, "rope_parameters": V5}, "(theta: rope_theta 10000.0, rope_parameters 1000000.0)"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": LINEAR},
            "(factor: rope_scaling 2.0, rope_parameters 4.0)",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": V5},
            "(factor: rope_scaling 2.0, rope_parameters none)",
        ),
        (
            {"rope_parameters": {"full_attention": V5, "sliding_attention": LINEAR}},
            "(theta: rope_parameters.full_attention 1000000.0, rope_parameters.sliding_attention 500000.0)",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters is 'yarn', expected none"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling is 'longrope', expected none, 'default', "),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_parameters.full_attention is 'dyn"),
        ({"rope_parameters": {"rope_type": "linear", "type": "default"}}, "rope_parameters is 'linear' and 'default'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is None, expected a positive number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_parameters.rope_theta is 0, expected a positive number"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_parameters.rope_theta is 1000"),
        ({"rope_parameters": V5 | {"factor": 4.0}}, "rope_parameters is of type 'default' and has the factor 4.0"),
        ({"rope_parameters": V5 | {"mrope_section": [16, 24, 24]}}, "rope_parameters.mrope_section is [16, 24, 24]"),
        ({"rope_parameters": V5 | {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"a": {"b": V5}}}, "rope_parameters.a.b is {'rope_theta': 1000000.0"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], expected an object"),
        ({"rope_parameters": {"full_attention": V5, "rope_theta": 1e6}}, "rope_parameters.full_attention is {"),
        ({"partial_rotary_factor": 0.5}, "text_config.partial_rotary_factor is 0.5: expected 1"),
        ({"rope_parameters": V5 | {"rope_theta": None}}, "rope_parameters.rope_theta is None, expected a positive"),
        (  # transformers 4 and 5 then read rope_scaling, and theta next to it or the default
            {"rope_parameters": LINEAR, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            "rope_theta 500000.0 is in rope_parameters only",
        ),
        ({"rope_parameters": V5, "rope_scaling": {"rope_type": "default"}}, "is in rope_parameters only"),
    ],
)
def test_rotary_positions_that_are_refused(refusal, changes, fault):
    assert fault in refusal(with_text(**changes))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (with_text(attention_bias=True), "text_config.attention_bias is true"),
        (with_text(mlp_bias=1), "text_config.mlp_bias is 1"),
        (with_text(logit_scale=0.25), "text_config.logit_scale is 0.25: expected 1"),
        (with_text(final_logit_softcapping=30.0), "text_config.final_logit_softcapping is 30.0"),
        (with_text(attention_multiplier=0.015625), "text_config.attention_multiplier is 0.015625"),
        (with_text(residual_multiplier=0.22), "text_config.residual_multiplier is 0.22"),
        (with_text(num_local_experts=8), "text_config.num_local_experts is 8"),
        (with_text(is_causal=False), "text_config.is_causal is False: expected True"),  # transformers 5 reads it
        (with_text(use_rope=False), "text_config.use_rope is False: expected True"),
        (with_text(tie_word_embeddings="false"), "text_config.tie_word_embeddings is 'false', expected true or false"),
        (with_text(use_qk_norm=True), "text_config.use_qk_norm is True"),
        (with_text(pruned_heads={"0": [1]}), "text_config.pruned_heads is {'0': [1]}"),
        (with_text(layer_types=["full_attention", "linear_attention"]), "text_config.layer_types is ['full_attention'"),
        (with_text(quantization_config={"bits": 4}), "text_config.quantization_config is {'bits': 4}: quantized check"),
        (
            HF | {"quantization_config": {"quant_method": "awq"}},
            "quantization_config is {'quant_method': 'awq'}: check",
        ),
        (HF | {"rope_theta": 1e6}, "  - rope_theta is 1000000.0: this key is not known here"),
        (HF | {"vision_config": VISION | {"use_abs_pos": 0.5}}, "vision_config.use_abs_pos is 0.5"),
        (HF | {"vision_config": VISION | {"num_channels": 4}}, "vision_config.num_channels is 4, expected 3"),
        (HF | {"image_token_index": 500, "image_token_id": 501}, "image_token_index is 500 and image_token_id 501"),
        (HF | {"vision_feature_layer": [-2, -5]}, "vision_feature_layer is [-2, -5], expected one integer"),
        (ORIGINAL | {"mm_resampler_type": "perceiver"}, "mm_resampler_type is 'perceiver'"),
        (ORIGINAL | {"mm_llm_compress": True}, "mm_llm_compress is True"),
        (ORIGINAL | {"use_mm_proj": False}, "use_mm_proj is False, expected true"),
        (ORIGINAL | {"mm_dense_connector_type": "dci"}, "mm_dense_connector_type is 'dci'"),
        (ORIGINAL | {"logits_scaling": 8.0}, "logits_scaling is 8.0: expected 1"),
    ],
)
def test_keys_that_change_the_computation_are_refused(refusal, config, key):
    text = refusal(config)
    assert key in text
    assert "A key without effect on what the model computes may be removed." in text


@pytest.mark.parametrize(
    "changes",
    [
        {"use_qk_norm": False, "final_logit_softcapping": None, "pruned_heads": {}, "new_key": ""},
        {"logit_scale": 1.0, "num_local_experts": 0, "partial_rotary_factor": 1.0, "is_causal": True},
        {"sliding_window": 32, "max_window_layers": 28, "use_sliding_window": False},  # transformers' Llama reads none
        {"layer_types": ["full_attention"] * 2},
        {"id2label": {"0": "LABEL_0"}, "temperature": 0.6, "dtype": "bfloat16", "_name_or_path": "lmsys/vicuna-7b"},
    ],
)
def test_keys_that_change_nothing(read, changes):
    assert read(with_text(**changes)).language == read(HF).language


def test_originals_open_with_all_their_keys(read):
    config = read(ORIGINAL)
    assert (config.aspect, config.has_newline, config.language.n_layer) == ("anyres", True, 32)
    mistral = ORIGINAL | {"model_type": "llava_mistral", "sliding_window": None, "num_key_value_heads": 8}
    assert read(mistral | {"rope_theta": 1e6, "max_position_embeddings": 32768}).language.n_ctx_train == 32768


# Key by key as published: llava-1.5-7b-hf (4.36), bakLlava-v1-hf, llava-v1.6-mistral-7b-hf, and a fine-tune of 4.47.
PUBLISHED = {
    "llava-1.5-7b-hf": HF | {
        "ignore_index": -100, "image_token_index": 32000, "pad_token_id": 32001, "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "torch_dtype": "float16", "vocab_size": 32064,
        },
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
        "vision_config": VISION | {"image_size": 336, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": 32064,
        "image_seq_length": 576,
    },
    "bakLlava-v1-hf": HF | {
        "text_config": {
            "_name_or_path": "mistralai/Mistral-7B-v0.1", "architectures": ["MistralForCausalLM"],
            "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "sliding_window": 4096, "torch_dtype": "float16",
            "vocab_size": 32064,
        },
    },
    "llava-v1.6-mistral-7b-hf": HF | {
        "architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next", "torch_dtype": "float16",
        "image_grid_pinpoints": [[336, 672], [672, 336]], "use_image_newline_parameter": True,
        "text_config": {
            "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2", "model_type": "mistral", "rope_theta": 1000000.0,
            "intermediate_size": 14336, "max_position_embeddings": 32768, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "sliding_window": None, "torch_dtype": "bfloat16", "vocab_size": 32064,
        },
    },
    "a fine-tune": HF | {
        "_attn_implementation_autoset": True, "_name_or_path": "/data/out", "hidden_size": 4096, "use_cache": False,
        "text_config": TEXT | {
            "_attn_implementation_autoset": True, "attention_bias": False, "mlp_bias": False, "head_dim": 16,
            "bad_words_ids": None, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0, "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0}, "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "pruned_heads": {},
            "pretraining_tp": 1, "problem_type": None, "temperature": 1.0, "top_k": 50, "torchscript": False,
            "typical_p": 1.0, "use_bfloat16": False, "exponential_decay_length_penalty": None, "prefix": None,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_open(read, name):
    config = PUBLISHED[name]
    assert read(config).language.n_rows == config["text_config"]["vocab_size"]


def test_every_key_of_transformers_own_configs_is_known():
    from transformers import CLIPConfig, CLIPVisionConfig, LlavaConfig, LlavaNextConfig

    from edge_llava.converters.decoders import DIALECTS

    kinds = (
        *((dialect.transformers_class("Config"), "language") for dialect in DIALECTS),
        (CLIPVisionConfig, "tower"),
        (CLIPConfig, "clip"),
        (LlavaConfig, "hf"),
        (LlavaNextConfig, "hf"),
    )
    for make, kind in kinds:
        settings = make().to_dict()
        assert len(settings) > 15
        assert find_unknown_keys(settings, kind) == []
        assert len(find_unknown_keys(settings | {"one_more": 1}, kind)) == 1


def test_sparse_mistral_takes_mistrals_defaults(read):
    from transformers import MistralConfig

    language, theirs = read(HF | {"text_config": {"model_type": "mistral"}}).language, MistralConfig()
    assert (language.n_embd, language.n_ff, language.n_layer) == (
        theirs.hidden_size,
        theirs.intermediate_size,
        theirs.num_hidden_layers,
    )
    assert (language.n_head_kv, language.rms_eps) == (theirs.num_key_value_heads, theirs.rms_norm_eps)
    assert language.n_ctx_train == min(theirs.sliding_window, theirs.max_position_embeddings) == 4096


@pytest.mark.parametrize(("layer", "expected"), [([-2], -2), ([3], 3), (-2, -2)])
def test_a_list_of_one_feature_layer(read, layer, expected):
    assert read(HF | {"vision_feature_layer": layer}).feature_layer == expected
    assert read(ORIGINAL | {"mm_vision_select_layer": layer}).feature_layer == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_attn_implementation", "owner/name"),
        ("_attn_implementation", {"text_config": "owner/name"}),
        ("_attn_implementation", "flash_attention_2"),
        ("_attn_implementation_internal", "owner/name@main:flash"),
        ("attn_implementation", "owner/name"),
        ("_experts_implementation", "owner/name"),
        ("use_kernels", True),
        ("kernels", {"RMSNorm": "owner/name"}),
        ("kernel_config", {"RMSNorm": "owner/name:RMSNorm"}),
        ("_anything", "else"),
    ],
)
@pytest.mark.parametrize("place", ["", "text_config", "vision_config", "text_config.deeper", "list"])
def test_a_config_does_not_choose_the_code_that_runs(refusal, tmp_path, key, value, place):
    entry: dict[str, Any] = {key: value}
    config = {
        "": HF | entry,
        "text_config": with_text(**entry),
        "vision_config": HF | {"vision_config": VISION | entry},
        "text_config.deeper": with_text(id2label={"0": entry}),
        "list": HF | {"task_specific_params": [[entry]]},
    }[place]
    assert f"{key} is " in refusal(config)
    (tmp_path / "config.json").write_text(json.dumps(VISION | {"id2label": entry}))
    with pytest.raises(CheckpointError, match="a config must not choose the code that runs"):
        read_tower_config(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"_name_or_path": "x", "_commit_hash": "0" * 40, "_attn_implementation_autoset": True},
        {"_attn_implementation": "sdpa", "attn_implementation": "flash_attention_2", "_flash_attn_2_enabled": True},
        {"_attn_implementation": None, "use_kernels": False},
        {"auto_map": {"AutoModel": "modeling_llava.Llava"}},
    ],
)
def test_private_keys_that_programs_write(read, changes):
    assert read(HF | changes) == read(HF)


def test_long_values_are_shortened(refusal, tmp_path):
    from edge_llava.converters.checkpoint import Checkpoint

    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL | {"mm_vision_tower": "\x1b]" + "x" * 4_000_000}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(tmp_path))
    assert len(str(error.value)) < 1000
    text = refusal(with_text(unknown="x" * 4_000_000, model_type=[["y" * 4_000_000] * 3]))
    assert len(text) < 2000
    assert len(refusal(HF | {"text_config": TEXT | {f"key_{i}": i + 1 for i in range(5000)}})) < 5000
    assert len(refusal({"architectures": ["z" * 4_000_000]})) < 2000


PROCESSOR = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.1, 0.2, 0.3], "do_pad": False}


def test_an_image_processor_inside_processor_config(read):
    config = read(HF, processor_config={"image_processor": PROCESSOR, "patch_size": 14})
    assert (config.image_mean, config.image_std, config.aspect) == ((0.5, 0.25, 0.125), (0.1, 0.2, 0.3), "crop")


def test_two_image_processors_must_agree(refusal, read):
    same = {"preprocessor_config": PROCESSOR, "processor_config": {"image_processor": PROCESSOR}}
    assert read(HF, **same).aspect == "crop"
    inside = {"image_processor": PROCESSOR | {"do_pad": True}}
    text = refusal(HF, preprocessor_config=PROCESSOR, processor_config=inside)
    assert "do_pad is False in preprocessor_config.json and True in processor_config.json" in text


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"do_normalize": False}, "do_normalize is False, expected true"),
        ({"do_rescale": 0}, "do_rescale is 0, expected true"),
        ({"do_pad": False, "do_center_crop": False}, "do_center_crop is False, expected true"),
        ({"resample": 2}, "resample is 2, expected 3 (bicubic)"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0, expected 0.00392"),
        ({"size": {"shortest_edge": 336}}, "size is {'shortest_edge': 336}, expected 224"),
        ({"crop_size": {"height": 224, "width": 225}}, "crop_size is {'height': 224, 'width': 225}, expected 224"),
        ({"image_mean": [1e28, 0, 0]}, "image_mean is [1e+28, 0, 0], expected three numbers from 0 to 1"),
        ({"image_mean": [2**31, 0, 0]}, "image_mean is [2147483648, 0, 0], expected three numbers"),
        ({"image_std": [1e-30, 1, 1]}, "image_std is [1e-30, 1, 1], expected three positive numbers"),
        ({"image_mean": [math.nan, 0, 0]}, "image_mean is [nan, 0, 0], expected three numbers"),
        ({"image_mean": [10**400, 0, 0]}, "image_mean is [1000"),
    ],
)
def test_image_processors_that_are_refused(refusal, settings, fault):
    config = HF | {"vision_config": VISION | {"image_size": 224, "patch_size": 32}}
    assert fault in refusal(config, preprocessor_config=settings)
