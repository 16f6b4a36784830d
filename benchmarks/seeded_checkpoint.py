"""Writes a LLaVA-1.5 checkpoint of a real model's shape with random weights, in Hugging Face layout, half precision.

    python benchmarks/seeded_checkpoint.py 1.1b OUT --vocabulary llama-vocab.gguf

The vocabulary is a GGUF that holds LLaMA's 32,000 tokens (llama.cpp ships one as models/ggml-vocab-llama-spm.gguf).
Shards are written one at a time: the 7B shape needs 14 GB of disk and little memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2

from edge_llava.converters.checkpoint import expected_language_shapes, expected_projector_shapes, expected_vision_shapes
from edge_llava.converters.demo_checkpoint import hf_config, hf_name
from edge_llava.converters.model_configs import LanguageConfig, TowerConfig

_TOWER = TowerConfig(1024, 4096, 24, 16, image_size=336, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu")
_N_TOKENS, _N_ROWS = 32000, 32064
_SHARD_BYTES = 2 << 30


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
    shapes = (
        expected_vision_shapes(_TOWER, _TOWER.n_layers)
        | expected_projector_shapes(_TOWER, language)
        | expected_language_shapes(language)
    )
    random = torch.Generator().manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    names: list[list[str]] = []
    for name, shape in shapes.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > _SHARD_BYTES:
            names.append(_write_shard(directory, len(names), shards.pop()))
            shards.append({})
        shards[-1][hf_name(name)] = _random_tensor(random, name, shape)
    names.append(_write_shard(directory, len(names), shards.pop()))
    weight_map = {name: f"model-{index + 1:05}.safetensors" for index, shard in enumerate(names) for name in shard}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _write_shard(directory: Path, index: int, tensors: dict[str, torch.Tensor]) -> list[str]:
    save_file(tensors, directory / f"model-{index + 1:05}.safetensors", {"format": "pt"})
    return list(tensors)


def _random_tensor(random: torch.Generator, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = torch.randn(shape, generator=random)
    if len(shape) == 1:
        values = 1 + 0.1 * values if "norm" in name and name.endswith("weight") else 0.05 * values
    else:
        values /= float(np.prod(shape[1:])) ** 0.5
    return values.to(torch.float16)


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
    parser.add_argument("shape", choices=LANGUAGES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_checkpoint(arguments.out, LANGUAGES[arguments.shape], arguments.vocabulary, arguments.seed)
