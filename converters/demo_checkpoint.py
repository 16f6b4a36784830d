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
    (directory / "config.json").write_text(json.dumps(_config(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shapes = (
        expected_vision_shapes(_TOWER, _TOWER.n_layers)
        | expected_projector_shapes(_TOWER, _LANGUAGE)
        | expected_language_shapes(_LANGUAGE)
    )
    random = np.random.default_rng(_SEED)
    tensors = {_hf_name(name): _random_tensor(random, name, shape) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def _random_tensor(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1 and ("norm" in name and name.endswith("weight")):
        values = 1 + 0.1 * random.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.05 * random.standard_normal(shape)
    else:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values).to(torch.float16)


def _hf_name(name: str) -> str:
    part, rest = name.split(".", 1)
    if part == "vision":
        return f"vision_tower.vision_model.{rest}"
    if part == "projector":
        layer, kind = rest.split(".")
        return f"multi_modal_projector.linear_{1 if layer == '0' else 2}.{kind}"
    return f"language_model.{rest}" if rest.startswith("lm_head") else f"language_model.model.{rest}"


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": _TOWER.hidden_size,
            "intermediate_size": _TOWER.intermediate_size,
            "num_hidden_layers": _TOWER.n_layers,
            "num_attention_heads": _TOWER.n_heads,
            "image_size": _TOWER.image_size,
            "patch_size": _TOWER.patch_size,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": _LANGUAGE.n_embd,
            "intermediate_size": _LANGUAGE.n_ff,
            "num_hidden_layers": _LANGUAGE.n_layer,
            "num_attention_heads": _LANGUAGE.n_head,
            "vocab_size": _LANGUAGE.n_rows,
            "max_position_embeddings": _LANGUAGE.n_ctx_train,
            "rms_norm_eps": _LANGUAGE.rms_eps,
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
