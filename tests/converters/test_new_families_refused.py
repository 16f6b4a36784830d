"""What cannot be converted although it looks like a LLaVA: each is named, with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_checkpoints as made
import pytest
import torch
from checkpoint_layouts import edit_json, write_json
from safetensors.torch import save_file

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.checkpoint_config import read_checkpoint_config
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def interleave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return made.interleave(tmp_path_factory.mktemp("checkpoints") / "interleave", 5).directory


@pytest.fixture
def refuse(interleave: Path, tmp_path: Path) -> Callable[..., str]:
    """refuse(changes, **changes of text_config) -> why the checkpoint's config is refused with them."""

    def run(changes: dict[str, Any], **text: Any) -> str:
        config = json.loads((interleave / "config.json").read_text())
        config["text_config"] |= text
        write_json(tmp_path / "config.json", config | changes)
        with pytest.raises(CheckpointError) as error:
            read_checkpoint_config(tmp_path)
        return str(error.value)

    return run


def test_an_activation_that_is_the_language_models(refuse):
    """Seungyoun/llava-llama-3-8b-hf."""
    text = refuse({"projector_hidden_act": "silu"})
    assert "projector_hidden_act is 'silu', expected 'gelu'. Some published configs name the language model's" in text
    assert "if the projector was trained with GELU, as LLaVA's code does, correct the config" in text


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, " by bitsandbytes"),
        ({"load_in_8bit": True, "llm_int8_threshold": 6.0}, " by bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, " by GPTQ"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, " by AWQ"),
        ({"quant_method": "compressed-tensors"}, " by compressed-tensors"),
        ({"bits": 4}, ""),
    ],
)
@pytest.mark.parametrize("place", ["outer", "text_config"])
def test_quantized_checkpoints(refuse, config, name, place):
    section = {"quantization_config": config}
    text = refuse(section) if place == "outer" else refuse({}, **section)
    assert f"quantized{name}" in text
    assert "cannot be converted; convert the original checkpoint" in text


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("MiniCPMV", "minicpmv"), ("InternVLChatModel", "internvl_chat"), ("MolmoForCausalLM", "molmo"),
        ("Phi3VForCausalLM", "phi3_v"), ("ImpForCausalLM", "imp"), ("BunnyPhiForCausalLM", "bunny-phi"),
        ("MobileLlamaForCausalLM", "mobilevlm"), ("TinyLlavaForConditionalGeneration", "tinyllava"),
    ],
)  # fmt: skip
def test_families_of_their_own_code(tmp_path, architecture, model_type):
    auto_map = {"AutoModelForCausalLM": f"modeling.{architecture}"}
    write_json(
        tmp_path / "config.json", {"architectures": [architecture], "model_type": model_type, "auto_map": auto_map}
    )
    with pytest.raises(CheckpointError) as error:
        read_checkpoint_config(tmp_path)
    assert f"is {architecture} (model_type {model_type!r}), not supported." in str(error.value)
    assert "Its model is code of its own (auto_map), which is never run. Supported: LLaVA" in str(error.value)


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "phi", "phi3", "qwen3", "mixtral"])
def test_language_models_of_other_kinds(refuse, model_type):
    text = refuse({}, model_type=model_type)
    assert f"text_config.model_type is {model_type!r}, expected 'llama' or 'mistral' or 'qwen2'" in text
    assert "Supported: LLaVA" in text


@pytest.mark.parametrize("token", [576, 151646, -1])
def test_an_image_token_outside_the_embedding(refuse, token):
    assert f"image_token_index is {token}; the embedding has 576 rows (text_config.vocab_size)" in refuse(
        {"image_token_index": token}
    )


def write_adapter(directory: Path, modules: dict[str, tuple[int, int]]) -> Path:
    """An adapter of rank 2 for modules of the first block of (inputs, outputs)."""
    directory.mkdir()
    write_json(directory / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    prefix = "base_model.model.language_model.model.layers.0"
    tensors = {f"{prefix}.{name}.lora_A.weight": torch.ones(2, n_in) for name, (n_in, _) in modules.items()}
    tensors |= {f"{prefix}.{name}.lora_B.weight": torch.ones(n_out, 2) for name, (_, n_out) in modules.items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


@pytest.mark.parametrize(
    ("modules", "fault"),
    [
        ({"self_attn.k_proj": (64, 32)}, "language.layers.0.self_attn.k_proj.weight has shape"),  # of grouped queries
        ({"mlp.down_proj": (176, 64)}, "language.layers.0.mlp.down_proj.weight has shape"),
        ({"self_attn.qkv_proj": (64, 192)}, "language.layers.0.self_attn.qkv_proj.weight is not in the base"),  # Phi-3
        ({"mlp.gate_up_proj": (64, 320)}, "language.layers.0.mlp.gate_up_proj.weight is not in the base"),
    ],
)
def test_an_adapter_for_another_language_model(interleave, tmp_path, modules, fault):
    adapter = write_adapter(tmp_path / "adapter", modules)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(adapter), base=str(interleave))
    assert fault in str(error.value)


def test_an_adapter_for_more_blocks(interleave, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", {"self_attn.q_proj": (64, 64)})
    tensors = {f"base_model.model.language_model.model.layers.7.self_attn.q_proj.lora_{part}.weight": torch.ones(shape)
               for part, shape in (("A", (2, 64)), ("B", (64, 2)))}  # fmt: skip
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.7\.self_attn\.q_proj\.weight is not in the base"):
        Checkpoint.open(str(adapter), base=str(interleave))


def test_an_unknown_pre_tokenizer(tmp_path):
    directory = made.interleave(tmp_path / "checkpoint", 5).directory
    path = directory / "tokenizer.json"
    data = json.loads(path.read_text())
    split = data["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"|\p{N}", r"|\p{N}{1,2}")
    edit_json(path, data)
    with pytest.raises(CheckpointError, match=r"its pre_tokenizer is unknown.*the nearest that llama\.cpp knows is"):
        Checkpoint.open(str(directory))
