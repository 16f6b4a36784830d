"""Writes a trained LLaVA as a checkpoint: Hugging Face layout, half precision, complete or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from edge_llava.errors import TrainingError
from edge_llava.home.atomic_directory import atomic_directory
from edge_llava.home.files import sync_to_disk
from edge_llava.home.regular_file import share_permissions
from edge_llava.training.llava import Llava

_SHARD = "5GB"


def write_checkpoint(llava: Llava, out: Path, extra_files: tuple[Path, ...] = ()) -> None:
    """Writes tower, projector and language model, with tokenizer and preprocessing.

    Hugging Face layout has no place for a linear projector; such a model is written in LLaVA's own layout, with its
    tower in `vision_tower/`.

    Args:
        llava: Converted to float16 in place; it cannot be trained further.
        out: Directory of the checkpoint; replaced when the new one is complete.
        extra_files: Files to copy into it: loss curves.

    Raises:
        TrainingError: If it cannot be written; an existing checkpoint is kept.
    """
    try:
        with atomic_directory(out, overwrite=True) as directory:
            _write_files(llava, directory, extra_files)
            sync_to_disk([*directory.rglob("*"), directory])  # the saved steps are removed afterwards
        sync_to_disk([out, out.parent])
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk can raise any of them
        raise TrainingError(
            f"the trained checkpoint cannot be written to {out}: {error}. Free space and run the same command again: "
            "the last saved step is kept."
        ) from error


def _write_files(llava: Llava, directory: Path, extra_files: tuple[Path, ...]) -> None:
    llava.model.to(torch.float16)
    if llava.projector_kind == "linear":
        _write_original(llava, directory)
    else:
        llava.model.save_pretrained(directory, max_shard_size=_SHARD)
        _write_json(directory / "processor_config.json", _processor_config(llava))
    _write_json(directory / "preprocessor_config.json", llava.preprocessing.to_config())
    llava.tokenizer.save_pretrained(directory)
    for path in extra_files:
        if path.is_file():
            shutil.copyfile(path, directory / path.name)
    share_permissions(directory, like=directory / "preprocessor_config.json")


def _processor_config(llava: Llava) -> dict[str, object]:
    config = llava.model.config
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
    }


def _write_original(llava: Llava, directory: Path) -> None:
    model, config = llava.model, llava.model.config
    language = config.text_config.to_dict() | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "mm_projector_type": "linear",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": llava.preprocessing.aspect if llava.preprocessing.aspect == "pad" else "square",
    }
    _write_json(directory / "config.json", language)
    core = model.model
    tensors = {f"model.{name}": tensor for name, tensor in core.language_model.state_dict().items()}
    tensors |= {f"model.mm_projector.{n}": t for n, t in core.multi_modal_projector.linear.state_dict().items()}
    tensors["lm_head.weight"] = model.lm_head.weight.detach().clone()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        directory / "model.safetensors",
        {"format": "pt"},
    )
    core.vision_tower.save_pretrained(directory / "vision_tower")


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
