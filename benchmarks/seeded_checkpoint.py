"""Writes LLaVA-1.5 checkpoints with random weights, in Hugging Face layout, half precision, for benchmarks and tests.

    python benchmarks/seeded_checkpoint.py 1.1b OUT --vocabulary llama-vocab.gguf
    python benchmarks/seeded_checkpoint.py tiny OUT

The vocabulary is a GGUF file with LLaMA's 32,000 tokens (llama.cpp ships one as models/ggml-vocab-llama-spm.gguf); the
tiny shape makes its own. Shards are written one at a time: the 7B shape needs 14 GB of disk and little memory. Newer
families: `seeded_families.py`.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2

from edge_llava.converters.expected_tensors import (
    expected_language_shapes,
    expected_projector_shapes,
    expected_vision_shapes,
)
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig

_TOWER = TowerConfig(1024, 4096, 24, 16, image_size=336, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu")
_N_TOKENS, _N_ROWS = 32000, 32064
_SHARD_BYTES = 2 << 30
# Widths are multiples of 256, so that every k-quant applies.
_TINY_TOWER = TowerConfig(256, 512, 4, 4, image_size=112, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu")
_TINY_LANGUAGE = LanguageConfig(
    n_embd=256, n_ff=768, n_layer=4, n_head=4, n_head_kv=4, head_dim=64, n_rows=512, n_ctx_train=1024,
    rms_eps=1e-5, rope_theta=10000.0, rope_factor=None, tied=False,
)  # fmt: skip
_TINY_SEED = 20230417
_SENTENCES = (
    "What is shown in this picture? The picture shows a red cube beside a small green ball on a wooden table.",
    "How many things are there? There are three of them: a cup, a spoon and a plate.",
    "Is the box to the left of the lamp? Yes, it stands to the left of the lamp, near the window.",
    "A chat between a curious human and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "USER: Which colour is the largest object? ASSISTANT: The largest object is blue.",
)


def _llama(n_embd: int, n_ff: int, n_layer: int, n_head: int, n_head_kv: int, n_ctx: int) -> LanguageConfig:
    return LanguageConfig(
        n_embd, n_ff, n_layer, n_head, n_head_kv, n_embd // n_head, _N_ROWS, n_ctx, 1e-5, 10000.0, None, tied=False
    )


LANGUAGES = {
    "1.1b": _llama(2048, 5632, 22, 32, 4, 2048),
    "7b": _llama(4096, 11008, 32, 32, 32, 4096),
    "13b": _llama(5120, 13824, 40, 40, 40, 4096),
}


def write_checkpoint(directory: Path, language: LanguageConfig, vocabulary: Path, seed: int) -> None:
    """Writes config, tokenizer and shards; `directory` must not exist."""
    directory.mkdir(parents=True)
    (directory / "tokenizer.model").write_bytes(_tokenizer_model(vocabulary))
    (directory / "added_tokens.json").write_text(json.dumps({"<image>": _N_TOKENS, "<pad>": _N_TOKENS + 1}))
    config = hf_config(_TOWER, language) | {"image_token_index": _N_TOKENS}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    shapes = _all_shapes(_TOWER, language)
    random = torch.Generator().manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    names: list[list[str]] = []
    for name, shape in shapes.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > _SHARD_BYTES:
            names.append(_write_shard(directory, len(names), shards.pop()))
            shards.append({})
        shards[-1][hf_name(name)] = random_tensor(random, name, shape)
    names.append(_write_shard(directory, len(names), shards.pop()))
    weight_map = {name: f"model-{index + 1:05}.safetensors" for index, shard in enumerate(names) for name in shard}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_tiny_checkpoint(
    directory: Path, tower: TowerConfig = _TINY_TOWER, language: LanguageConfig = _TINY_LANGUAGE
) -> None:
    """Writes a checkpoint, of 6 million weights and 512 tokens by default.

    The bytes are the same on every machine with the same packages.

    Args:
        directory: Created; must not exist.
        tower, language: The shapes.
    """
    directory.mkdir(parents=True)
    (directory / "tokenizer.model").write_bytes(_train_tokenizer(language.n_rows))
    config = json.dumps(hf_config(tower, language), indent=2, sort_keys=True)
    (directory / "config.json").write_text(f"{config}\n", encoding="utf-8")
    random = np.random.default_rng(_TINY_SEED)
    shapes = _all_shapes(tower, language)
    tensors = {hf_name(name): _seeded_tensor(random, name, shape) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def hf_name(name: str) -> str:
    """The name of one of our tensors in hub files of LLaVA-1.5: the inverse of `tensor_names.own_name`."""
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
            "model_type": language.dialect.model_type,
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


def _all_shapes(tower: TowerConfig, language: LanguageConfig) -> dict[str, tuple[int, ...]]:
    return (
        expected_vision_shapes(tower, tower.n_layers)
        | expected_projector_shapes(tower, language, "mlp2x_gelu")
        | expected_language_shapes(language)
    )


def _write_shard(directory: Path, index: int, tensors: dict[str, torch.Tensor]) -> list[str]:
    save_file(tensors, directory / f"model-{index + 1:05}.safetensors", {"format": "pt"})
    return list(tensors)


def random_tensor(random: torch.Generator, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor float16 whose layer neither enlarges nor shrinks what passes through it; `name` as in a file."""
    values = torch.randn(shape, generator=random)
    if len(shape) == 1:
        values = 1 + 0.1 * values if "norm" in name and name.endswith("weight") else 0.05 * values
    else:
        values /= float(np.prod(shape[1:])) ** 0.5
    return values.to(torch.float16)


def _seeded_tensor(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1 and ("norm" in name and name.endswith("weight")):
        values = 1 + 0.1 * random.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.05 * random.standard_normal(shape)
    else:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values).to(torch.float16)


def _train_tokenizer(n_tokens: int = _TINY_LANGUAGE.n_rows) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=n_tokens,
        byte_fallback=True,
        # as LLaMA's: every space and newline counts
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _tokenizer_model(vocabulary: Path) -> bytes:
    """LLaMA's SentencePiece model from a GGUF's tokens, scores and types."""
    fields = GGUFReader(vocabulary).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(tokens.data)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    for i in range(len(tokens.data)):
        piece = model.pieces.add()
        piece.piece = bytes(tokens.parts[tokens.data[i]]).decode()
        piece.score = float(scores.parts[scores.data[i]][0])
        piece.type = int(types.parts[types.data[i]][0])
    serialized: bytes = model.SerializeToString()
    return serialized


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=["tiny", *LANGUAGES])
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.shape == "tiny":
        write_tiny_checkpoint(arguments.out)
    elif arguments.vocabulary is None:
        parser.error("this shape needs --vocabulary")
    else:
        write_checkpoint(arguments.out, LANGUAGES[arguments.shape], arguments.vocabulary, arguments.seed)
