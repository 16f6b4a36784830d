"""Writes LLaVA-OneVision-0.5B and llava-interleave-0.5B with random weights: files, keys and shapes as published.

    python benchmarks/seeded_families.py onevision-0.5b OUT --vocabulary ggml-vocab-qwen2.gguf
    python benchmarks/seeded_families.py interleave-0.5b OUT --vocabulary ggml-vocab-qwen2.gguf

The vocabulary is a GGUF file with Qwen2's tokens and merges (llama.cpp ships one as models/ggml-vocab-qwen2.gguf).
transformers writes config, tokenizer and weights, in half precision, and opens the directory as it is.

Source: the files of llava-hf/llava-onevision-qwen2-0.5b-ov-hf and llava-hf/llava-interleave-qwen-0.5b-hf.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from seeded_checkpoint import random_tensor
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    LlavaConfig,
    LlavaOnevisionConfig,
    Qwen2TokenizerFast,
)

from edge_llava.converters.image_processors import LlavaOnevisionImageProcessor, SiglipImageProcessor

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # Qwen2's, behind its words
_SIDE, _PATCH = 384, 14
_N_PATCHES = (_SIDE // _PATCH) ** 2
_TOWER = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
    "num_attention_heads": 16, "image_size": _SIDE, "patch_size": _PATCH, "vision_use_head": False,
}  # fmt: skip
_QWEN = {
    "model_type": "qwen2", "num_hidden_layers": 24, "vocab_size": 152000, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip
_CANVASES = [[_SIDE * n_down, _SIDE * n_across] for n_down in range(1, 7) for n_across in range(1, 7)]
_FULL = {"vision_feature_select_strategy": "full"}
# {0} after each image, {1} before a text
_CHAT_TEMPLATE = (
    "{{% for message in messages %}}{{{{'<|im_start|>' + message['role'] + '\n'}}}}"
    "{{# Render all images first #}}"
    "{{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}}"
    "{{{{ '<image>{0}' }}}}{{% endfor %}}"
    "{{# Render all text next #}}"
    "{{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}}"
    "{{{{ '{1}' + content['text'] }}}}{{% endfor %}}"
    "{{{{'<|im_end|>' + '\n'}}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)


@dataclass(frozen=True)
class Family:
    """A checkpoint as published.

    Attributes:
        config: transformers' class of the config.
        language, keys: What its `text_config`, and the config itself, say besides what both checkpoints do.
        image_processor: transformers' object.
        processor: processor_config.json, besides what both say.
        chat_template: The Jinja program.
        added: Tokens behind Qwen2's, by the config's key for their id.
    """

    config: Any
    language: Mapping[str, int]
    keys: Mapping[str, Any]
    image_processor: Any
    processor: Mapping[str, Any]
    chat_template: str
    added: Mapping[str, str] = field(default_factory=lambda: {"image_token_index": "<image>"})


FAMILIES = {
    "interleave-0.5b": Family(
        LlavaConfig,
        {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 16},
        {"image_seq_length": _N_PATCHES, "tie_word_embeddings": True},
        SiglipImageProcessor(size={"height": _SIDE, "width": _SIDE}),
        {"processor_class": "LlavaProcessor", "patch_size": _PATCH, "num_additional_image_tokens": 0},
        _CHAT_TEMPLATE.format("", "\n"),
    ),
    "onevision-0.5b": Family(
        LlavaOnevisionConfig,
        {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2},
        {"image_grid_pinpoints": _CANVASES, "vision_aspect_ratio": "anyres_max_9"},
        LlavaOnevisionImageProcessor(image_grid_pinpoints=_CANVASES),
        {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": _N_PATCHES},
        _CHAT_TEMPLATE.format("\n", ""),
        {"image_token_index": "<image>", "video_token_index": "<video>"},
    ),
}


@dataclass(frozen=True)
class Vocabulary:
    """Qwen2's tokens without the special ones, in order of their ids and in its byte alphabet, and its merges."""

    words: list[str]
    merges: list[str]

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Reads a GGUF."""
        fields = GGUFReader(path).fields
        tokens, merges = (
            [bytes(found.parts[index]).decode() for index in found.data]
            for found in (fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges"))
        )
        return cls(tokens[: tokens.index(_SPECIAL[0])], merges)


def write_family(
    directory: Path,
    family: Family,
    vocabulary: Vocabulary,
    seed: int = 0,
    tower: Mapping[str, int] | None = None,
    language: Mapping[str, int] | None = None,
) -> None:
    """Writes all files of a checkpoint.

    Args:
        directory: Created; must not exist.
        family: One of FAMILIES.
        vocabulary: Of the language model.
        seed: Of the weights.
        tower, language: Other counts for the sections of the config, for a smaller one.
    """
    directory.mkdir(parents=True)
    ids = {key: len(vocabulary.words) + len(_SPECIAL) + index for index, key in enumerate(family.added)}
    end = len(vocabulary.words) + _SPECIAL.index("<|im_end|>")
    qwen = {"eos_token_id": end} | _QWEN | family.language | (language or {})
    config = family.config(
        vision_config=AutoConfig.for_model(**_TOWER | (tower or {})).to_dict(),
        text_config=AutoConfig.for_model(**qwen).to_dict(),
        vision_feature_layer=-1,
        **_FULL | family.keys | ids,
    )
    _write_weights(directory, config, seed)
    _write_tokenizer(directory, vocabulary, [*_SPECIAL, *family.added.values()])
    GenerationConfig(eos_token_id=end, pad_token_id=end).save_pretrained(directory)
    family.image_processor.save_pretrained(directory)
    _write_json(directory / "processor_config.json", {"image_token": "<image>", **_FULL, **family.processor})
    _write_json(directory / "chat_template.json", {"chat_template": family.chat_template})


def _write_weights(directory: Path, config: Any, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float16)
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_tensor(random, name, tuple(parameter.shape)))
    model.save_pretrained(directory, max_shard_size="2GB")


def _write_tokenizer(directory: Path, vocabulary: Vocabulary, added: list[str]) -> None:
    flags = {"special": True, "normalized": False}
    with tempfile.TemporaryDirectory() as made:
        words, merges = Path(made) / "vocab.json", Path(made) / "merges.txt"
        _write_json(words, {word: id_ for id_, word in enumerate(vocabulary.words)})
        merges.write_text("\n".join(["#version: 0.2", *vocabulary.merges, ""]), encoding="utf-8")
        Qwen2TokenizerFast(
            str(words),
            str(merges),
            eos_token="<|im_end|>",
            added_tokens_decoder={
                id_: AddedToken(text, **flags) for id_, text in enumerate(added, len(vocabulary.words))
            },
        ).save_pretrained(directory)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_family(arguments.out, FAMILIES[arguments.family], Vocabulary.read(arguments.vocabulary), arguments.seed)
