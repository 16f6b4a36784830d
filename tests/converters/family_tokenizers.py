"""Writes the tokenizers of small LLaVAs, with what each file of published ones says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers_made
from checkpoint_layouts import edit_json, write_json
from family_parts import N_TOKENS
from published_templates import LLAMA_3, PHI_3
from sentencepiece import sentencepiece_model_pb2

BOS, END, EOM, EOT, IMAGE_69 = 416, 417, 424, 425, 493  # of the Llama-3 tokenizer: 128000, 1, 8, 9, 77
QWEN_EOS = 511
Write = Callable[[Path], None]


def llama_3_tokenizer(extra: tuple[str, ...] = (), version: str = "3", **changes: Any) -> Write:
    """Writes Llama-3's tokenizer with `extra` tokens; `changes` are of tokenizer_config.json."""

    def write(directory: Path) -> None:
        tokenizers_made.write_llama_3(directory, N_TOKENS, extra, version)
        edit_json(directory / "tokenizer_config.json", {"chat_template": LLAMA_3} | changes)

    return write


def qwen_2_tokenizer(extra: tuple[str, ...] = (), **changes: Any) -> Write:
    def write(directory: Path) -> None:
        tokenizers_made.write_qwen2(directory, N_TOKENS, extra)
        edit_json(directory / "tokenizer_config.json", changes)

    return write


def write_ends(directory: Path, eos: Any, **others: Any) -> None:
    write_json(directory / "generation_config.json", {"eos_token_id": eos, "_from_model_config": True} | others)


def yi_tokenizer(tokenizer_model: bytes, *extra: str) -> Write:
    """Writes Yi's tokenizer: SentencePiece whose 6th and 7th pieces are chat marks; no BOS, no space in front.

    Args:
        tokenizer_model: What it is made of.
        extra: Tokens that a LLaVA added.
    """

    def write(directory: Path) -> None:
        model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer_model)
        model.normalizer_spec.add_dummy_prefix = False
        for place, text in ((6, "<|im_start|>"), (7, "<|im_end|>")):
            last = model.pieces[N_TOKENS - 14 + place]
            last.piece, byte = model.pieces[place].piece, model.pieces[place].type
            model.pieces[place].piece, model.pieces[place].type = text, model.pieces[N_TOKENS - 20].type
            model.pieces[place].score, last.type = last.score, byte
        model.pieces[1].piece, model.pieces[2].piece = "<|startoftext|>", "<|endoftext|>"
        model.trainer_spec.bos_piece, model.trainer_spec.eos_piece = "<|startoftext|>", "<|endoftext|>"
        (directory / "tokenizer.model").write_bytes(model.SerializeToString())
        named = {0: "<unk>", 1: "<|startoftext|>", 2: "<|endoftext|>", 6: "<|im_start|>", 7: "<|im_end|>"}
        named |= dict(enumerate(extra, N_TOKENS))
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        config = {
            "add_bos_token": False, "add_eos_token": False, "bos_token": "<|startoftext|>", "legacy": True,
            "added_tokens_decoder": {str(id_): {"content": text, **flags} for id_, text in named.items()},
            "eos_token": "<|im_end|>", "pad_token": "<unk>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer",
            "add_prefix_space": False, "sp_model_kwargs": {},
        }  # fmt: skip
        write_json(directory / "tokenizer_config.json", config)

    return write


def vicuna_tokenizer(tokenizer_model: bytes) -> Write:
    """Writes LLaMA's tokenizer with what Vicuna's config says."""

    def write(directory: Path) -> None:
        (directory / "tokenizer.model").write_bytes(tokenizer_model)
        config = {
            "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
            "pad_token": "<unk>", "unk_token": "<unk>", "legacy": True, "tokenizer_class": "LlamaTokenizer",
        }  # fmt: skip
        write_json(directory / "tokenizer_config.json", config)

    return write


def phi_3_tokenizer(tokenizer_model: bytes, image: int) -> Write:
    """Writes Phi-3's tokenizer: added tokens that swallow white space, <image> with the id `image`, <pad> behind it."""

    names = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{n}|>" for n in range(1, 5)), "<|system|>", "<|end|>"]
    names += ["<|placeholder5|>", "<|placeholder6|>", "<|user|>"]

    def write(target: Path) -> None:
        (target / "tokenizer.model").write_bytes(tokenizer_model)
        flags = {"lstrip": False, "normalized": False, "single_word": False, "special": True}
        decoder = {
            str(N_TOKENS + n): {"content": text, "rstrip": text != "<|endoftext|>", **flags}
            for n, text in enumerate(names)
        }
        for id_, text in ((0, "<unk>"), (1, "<s>"), (image, "<image>"), (image + 1, "<pad>")):
            decoder[str(id_)] = {"content": text, "rstrip": False, **flags}
        decoder["2"] = {"content": "</s>", **flags, "rstrip": True, "special": False}
        config = {
            "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "<|endoftext|>",
            "pad_token": "<pad>", "unk_token": "<unk>", "legacy": True, "tokenizer_class": "LlamaTokenizer",
            "added_tokens_decoder": decoder, "chat_template": PHI_3, "sp_model_kwargs": {},
        }  # fmt: skip
        write_json(target / "tokenizer_config.json", config)

    return write
