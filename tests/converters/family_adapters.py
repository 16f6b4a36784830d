"""Adapters of small LLaVAs as peft and as LLaVA's training save them, with the merged model beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from checkpoint_layouts import TO_ORIGINAL, Made
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, load_file, save_file
from transformers import AutoModelForImageTextToText

_WHERE = r".*(q_proj|v_proj|out_proj|down_proj|fc1|linear_1|linear_2)"
_IN_LANGUAGE = r".*language_model.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
_WHOLE = ("layers.0.mlp.fc1", "mm_projector", "image_newline")  # what stands for all that was trained without factors
NEW_TO_OLD = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
)
PREFIX = "base_model.model."


def adapt(base: Made, seed: int, **options: Any) -> Made:
    """An adapter of a LLaVA in Hugging Face layout: of its tower, its projector and its language model."""
    directory = base.directory.with_name("adapter")
    adapted = _trained(base.twin, seed, **{"target_modules": _WHERE, **options})
    adapted.save_pretrained(directory)
    return Made(directory, _merged(adapted, base), {"base": str(base.directory)})


def adapt_original(base: Made, seed: int) -> Made:
    """A LoRA as LLaVA's training saves it: factors for the language model; beside them what was trained whole."""
    directory = base.directory.with_name("adapter")
    adapted = _trained(base.twin, seed, target_modules=_IN_LANGUAGE)
    stored, others = load_file(base.directory / "model.safetensors").keys(), {}
    for name, parameter in adapted.get_base_model().named_parameters():
        published = original_name(name)
        if published in stored and any(part in published for part in _WHOLE):
            parameter.data += 0.02 * torch.randn(parameter.shape)
            others[PREFIX + published] = parameter.data.clone()
    adapted.save_pretrained(directory)
    path = directory / "adapter_model.safetensors"
    factors = {
        PREFIX + original_name(name.removeprefix(PREFIX)): tensor for name, tensor in load(path.read_bytes()).items()
    }
    save_file(factors, path)
    torch.save(others, directory / "non_lora_trainables.bin")
    shutil.copy(base.directory / "config.json", directory)
    return Made(directory, _merged(adapted, base), {"base": str(base.directory)})


def _trained(twin: Path, seed: int, **options: Any) -> Any:
    """peft's model, with factors as if they were trained: nothing is zero or has its initial value."""
    model = AutoModelForImageTextToText.from_pretrained(twin, dtype=torch.float32)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **options))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return adapted


def _merged(adapted: Any, base: Made) -> Path:
    target = base.directory.with_name("merged")
    adapted.merge_and_unload().save_pretrained(target)
    for path in base.twin.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "merges", "special", "added", "chat_template", "preprocessor")):
            shutil.copy(path, target)
    return target


def original_name(name: str) -> str:
    """LLaVA's name of a tensor or module of transformers' model."""
    old = next(theirs + name[len(ours) :] for ours, theirs in NEW_TO_OLD if name.startswith(ours))
    return next(theirs + old[len(ours) :] for ours, theirs in TO_ORIGINAL if old.startswith(ours))
