"""A small LLaVA-1.5 with random weights, made on the spot. It has learned nothing; it proves the machinery."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from edge_llava.converters.checkpoint import expected_language_shapes, expected_projector_shapes, expected_vision_shapes
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig

_SEED = 20230417
_N_VOCAB = 512
# Widths are multiples of 256, so that every k-quant applies.
_TOWER = TowerConfig(256, 512, 4, 4, image_size=112, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu")
_LANGUAGE = LanguageConfig(
    n_embd=256, n_ff=768, n_layer=4, n_head=4, n_head_kv=4, head_dim=64, n_rows=_N_VOCAB, n_ctx_train=1024,
    rms_eps=1e-5, rope_theta=10000.0, rope_factor=None, tied=False,
)  # fmt: skip
_SENTENCES = (
    "What is shown in this picture? The picture shows a red cube beside a small green ball on a wooden table.",
    "How many things are there? There are three of them: a cup, a spoon and a plate.",
    "Is the box to the left of the lamp? Yes, it stands to the left of the lamp, near the window.",
    "A chat between a curious human and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "USER: Which colour is the largest object? ASSISTANT: The largest object is blue.",
)


def write_demo_checkpoint(directory: Path) -> None:
    """Writes the checkpoint in Hugging Face layout; the same bytes on every machine with the same packages.

    Args:
        directory: Created; must not exist.
    """
    directory.mkdir(parents=True)
    (directory / "tokenizer.model").write_bytes(_train_tokenizer())
    (directory / "config.json").write_text(
        json.dumps(hf_config(_TOWER, _LANGUAGE), indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    shapes = (
        expected_vision_shapes(_TOWER, _TOWER.n_layers)
        | expected_projector_shapes(_TOWER, _LANGUAGE)
        | expected_language_shapes(_LANGUAGE)
    )
    random = np.random.default_rng(_SEED)
    tensors = {hf_name(name): _random_tensor(random, name, shape) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def _random_tensor(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1 and ("norm" in name and name.endswith("weight")):
        values = 1 + 0.1 * random.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.05 * random.standard_normal(shape)
    else:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values).to(torch.float16)


def hf_name(name: str) -> str:
    """The name that hub files of LLaVA-1.5 give one of our tensors: the inverse of `tensor_names.own_name`."""
    part, rest = name.split(".", 1)
    if part == "vision":
        return f"vision_tower.vision_model.{rest}"
    if part == "projector":
        layer, kind = rest.split(".")
        return f"multi_modal_projector.linear_{1 if layer == '0' else 2}.{kind}"
    return f"language_model.{rest}" if rest.startswith("lm_head") else f"language_model.model.{rest}"


def hf_config(tower: TowerConfig, language: LanguageConfig) -> dict[str, object]:
    """The config.json of a LLaVA-1.5 in Hugging Face layout."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_hidden_layers": tower.n_layers,
            "num_attention_heads": tower.n_heads,
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": language.n_embd,
            "intermediate_size": language.n_ff,
            "num_hidden_layers": language.n_layer,
            "num_attention_heads": language.n_head,
            "num_key_value_heads": language.n_head_kv,
            "vocab_size": language.n_rows,
            "max_position_embeddings": language.n_ctx_train,
            "rms_norm_eps": language.rms_eps,
        },
    }


def _train_tokenizer() -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=_N_VOCAB,
        byte_fallback=True,
        # as LLaMA's: every space and newline counts
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
