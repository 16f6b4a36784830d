"""Makes small tokenizers in the form of real ones: file names, pre-tokenizers, added tokens with their flags and order.

Trained on a small corpus, always the same. Only the number of tokens differs from the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3_REGEX = _CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _REST
QWEN2_REGEX = _CONTRACTIONS + _WORD + r"|\p{N}" + _REST
_CORPUS = (
    "What is shown in this picture? The cat sat on the mat, and the dog's bowl isn't empty: they're here.",
    "USER: What is on the table? ASSISTANT: There are 3 apples, 12 plates and 1234567 grains of salt.",
    "Zwölf Äpfel und eine Tür. Größe, café, naïve, Łódź; über alle Maße schön.",
    "你好，世界。这是什么？ Привет, мир! שלום مرحبا これは何ですか",  # noqa: RUF001
    "def f(x):\n    return [x, -x]\n\n\n\tand then    some   spaces",
    "A kitchen window, a wooden chair, two people walking along the river bank, bright yellow taxis and umbrellas.",
    "Describe the colours, the shapes and the positions of everything that stands near the left edge of the photo.",
)
_N_LLAMA_3 = 96  # special tokens, of 256: up to the ones that JoyCaption uses


def llama_3_special(version: str = "3.1", n: int = _N_LLAMA_3) -> list[str]:
    """The special tokens of Llama "3" or "3.1" in their order; the first has the id 128000 in the real ones."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    if version == "3.1":
        named |= {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}
    reserved = (f"reserved_special_token_{number}" for number in range(n))
    return [f"<|{named.get(index) or next(reserved)}|>" for index in range(n)]


def write_llama_3(directory: Path, n_tokens: int = 512, extra: Sequence[str] = (), version: str = "3.1") -> None:
    """Writes a tokenizer of Llama-3's kind.

    Args:
        directory: Where to.
        n_tokens: With the special ones: <|begin_of_text|> has the id n_tokens - 96, <|eot_id|> is 9 behind it, and
            JoyCaption's picture <|reserved_special_token_69|> 77 behind it.
        version: "3" or "3.1", which name some of the special tokens differently.
        extra: Tokens that a LLaVA added behind them, such as "<image>" and "<pad>".
    """
    model = train(n_tokens - _N_LLAMA_3, LLAMA_3_REGEX)
    special = [*llama_3_special(version), *extra]
    bos = special[0]
    template = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    begins = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [n_tokens - _N_LLAMA_3], "tokens": [bos]}},
    }
    data = tokenizer_json(
        model | {"ignore_merges": True},
        special,
        LLAMA_3_REGEX,
        post_processor={"type": "Sequence", "processors": [_byte_level(trim_offsets=True), begins]},
    )
    config = {"bos_token": bos, "eos_token": "<|end_of_text|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_files(directory, data, config | {"model_max_length": 1000000000000000019884624838656})


def write_qwen2(directory: Path, n_tokens: int = 512, extra: Sequence[str] = ()) -> None:
    """Writes a tokenizer of Qwen2's kind; <|endoftext|>, <|im_start|> and <|im_end|> are the last of `n_tokens`.

    Args:
        directory: Where to.
        n_tokens: With the three special ones.
        extra: Tokens that a LLaVA added behind them, such as "<image>" and "<video>".
    """
    model = train(n_tokens - 3, QWEN2_REGEX)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra]
    data = tokenizer_json(
        model, special, QWEN2_REGEX, normalizer={"type": "NFC"}, post_processor=_byte_level(trim_offsets=False)
    )
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    write_files(directory, data, config | {"add_prefix_space": False, "tokenizer_class": "Qwen2Tokenizer"})
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [" ".join(merge) for merge in model["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def train(n_tokens: int, regex: str) -> dict[str, Any]:
    """The section `model` of a tokenizer.json with this many tokens, 256 of them the bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(regex)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    assert len(model["vocab"]) == n_tokens, "the corpus is too small for so many tokens"
    return model


def tokenizer_json(
    model: Mapping[str, Any],
    special: Sequence[str],
    regex: str,
    normalizer: Mapping[str, Any] | None = None,
    post_processor: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A tokenizer.json whose special tokens follow the trained ones."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": id_, "content": text, **flags} for id_, text in enumerate(special, len(model["vocab"]))]
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _byte_level(trim_offsets=True)]},
        "post_processor": post_processor,
        "decoder": _byte_level(trim_offsets=True) | {"use_regex": True},
        "model": dict(model),
    }


def write_files(directory: Path, data: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes tokenizer.json, and tokenizer_config.json with the added tokens listed once more."""
    decoder = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in data["added_tokens"]
    }
    (directory / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, **config}))
    named = {key: value for key, value in config.items() if key in ("bos_token", "eos_token", "pad_token") and value}
    (directory / "special_tokens_map.json").write_text(json.dumps(named))


def _byte_level(*, trim_offsets: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trim_offsets, "use_regex": False}


def _pre_tokenizer(regex: str) -> Any:
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(regex), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
