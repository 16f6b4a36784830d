"""Writes small checkpoints in the layouts of transformers and of LLaVA's own code; weights are seeded, in float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from family_parts import N_ROWS, N_TOKENS
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

_CLASSES = {
    LlavaConfig: LlavaForConditionalGeneration,
    LlavaNextConfig: LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig: LlavaOnevisionForConditionalGeneration,
}
TO_ORIGINAL = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("vision_tower.", "model.vision_tower.vision_tower."),
    ("image_newline", "model.image_newline"),
)


@dataclass(frozen=True)
class Made:
    """A checkpoint, and the same weights for transformers.

    Attributes:
        directory: As it is published.
        twin: In Hugging Face layout, with the tokenizer; the same directory where that is the published one.
        options: Of `ConvertOptions`: where the rest of the checkpoint is.
    """

    directory: Path
    twin: Path
    options: Mapping[str, str] = field(default_factory=dict)


Write = Callable[[Path], None]


def hugging_face(
    directory: Path,
    seed: int,
    config: type,
    tower: Mapping[str, Any],
    language: Mapping[str, Any],
    keys: Mapping[str, Any],
    write_tokenizer: Write,
    processor: Mapping[str, Any],
    **files: Any,
) -> Made:
    """Writes a checkpoint as transformers saves it.

    Args:
        directory: Created.
        seed: Of the weights.
        config: transformers' class of the whole config.
        tower, language: Its sections.
        keys: Its other keys.
        write_tokenizer: Writes the tokenizer's files.
        processor: preprocessor_config.json.
        files: More JSON files by name, without ".json"; a text is written as chat_template.json has it.
    """
    model = model_of(config, seed, tower, language, keys)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(directory)
    write_json(directory / "preprocessor_config.json", processor)
    for name, content in files.items():
        write_json(directory / f"{name}.json", {name: content} if isinstance(content, str) else content)
    return Made(directory, directory)


def original(
    directory: Path,
    seed: int,
    tower: Mapping[str, Any],
    language: Mapping[str, Any],
    keys: Mapping[str, Any],
    write_tokenizer: Write,
    *,
    n_rows: int = N_TOKENS,
    n_stored_blocks: int | None = None,
    has_newline: bool = False,
) -> Made:
    """Writes a checkpoint as LLaVA's own code saves it, the tower inside, and its twin beside it.

    Args:
        directory: Created; the twin is DIRECTORY-twin.
        seed: Of the weights.
        tower: Of the twin, whose features are those of its last block but one.
        language: On top of the config.
        keys: Everything else in the config.
        write_tokenizer: Writes the tokenizer's files.
        n_rows: Of the embedding.
        n_stored_blocks: Of the tower; None: all.
        has_newline: Whether it has the row that ends each row of patches.
    """
    twin = directory.with_name(f"{directory.name}-twin")
    is_siglip = tower["model_type"].startswith("siglip")
    tap = {"vision_feature_layer": -2, "vision_feature_select_strategy": "full" if is_siglip else "default"}
    image_token = {"image_token_index": n_rows, "pad_token_id": n_rows + 1}
    config = LlavaOnevisionConfig if has_newline else LlavaConfig
    extra = {"image_grid_pinpoints": [[tower["image_size"]] * 2], "video_token_index": n_rows + 2}
    keys_of_twin = tap | image_token | (extra if has_newline else {})
    model = model_of(config, seed, tower, language | {"vocab_size": N_ROWS}, keys_of_twin)
    model.save_pretrained(twin)
    directory.mkdir()
    tensors = {}
    n_blocks = tower["num_hidden_layers"] if n_stored_blocks is None else n_stored_blocks
    for name, tensor in load_file(twin / "model.safetensors").items():
        kept = name.startswith("vision_tower.") and ".layers." in name
        if kept and int(name.split(".layers.")[1].split(".")[0]) >= n_blocks:
            continue
        is_table = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        ours, theirs = next(pair for pair in TO_ORIGINAL if name.startswith(pair[0]))
        tensors[theirs + name[len(ours) :]] = tensor[:n_rows].clone() if is_table else tensor
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    write_tokenizer(directory)
    write_tokenizer(twin)
    write_json(directory / "config.json", {**language, "vocab_size": n_rows, **keys})
    return Made(directory, twin)


def model_of(
    config: Any, seed: int, tower: Mapping[str, Any], language: Mapping[str, Any], keys: Mapping[str, Any]
) -> Any:
    """A model whose embeddings of images and tokens are far enough apart for 1e-4 to mean something."""
    torch.manual_seed(seed)
    sections = {
        "vision_config": AutoConfig.for_model(**tower).to_dict(),
        "text_config": AutoConfig.for_model(**language).to_dict(),
    }
    whole = config(**sections, **keys)
    model = _CLASSES[config](whole)
    is_siglip = tower["model_type"].startswith("siglip")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "vision_tower" in name and not is_siglip:
                parameter.mul_(4)
            elif "projector" in name:
                parameter.mul_(1.0 if is_siglip else 0.4)
    return model


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    """Changes keys of a JSON file."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
