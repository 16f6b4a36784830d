"""The vocabularies of Llama-3, Qwen2 and Phi-3: the ids of their own tokenizers, on random text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers_made
from random_texts import random_texts

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.tokenizers.original_ids import original_ids
from edge_llava.converters.tokenizers.probes import probe_texts

pytestmark = pytest.mark.convert

N_TEXTS = 3000
NO_FLAGS = {"single_word": False, "lstrip": False, "normalized": False}


@pytest.fixture
def metadata(published_vocabulary, read_gguf) -> Callable[[str], dict[str, Any]]:
    """metadata(name) -> the keys tokenizer.ggml.* of a published vocabulary, without that prefix."""

    def read(name: str) -> dict[str, Any]:
        found = read_gguf(published_vocabulary(name)).metadata
        return {key.removeprefix("tokenizer.ggml."): value for key, value in found.items()}

    return read


def write_llama_3(directory: Path, published: dict[str, Any]) -> None:
    special = published["tokens"][128000:]
    template = [{"SpecialToken": {"id": special[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    ids = {special[0]: {"id": special[0], "ids": [128000], "tokens": [special[0]]}}
    data = tokenizers_made.tokenizer_json(
        model(published, 128000) | {"ignore_merges": True},
        [*special, "<unk>", "<image>", "<pad>"],
        tokenizers_made.LLAMA_3_REGEX,
        post_processor={"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": ids},
    )
    tokenizers_made.write_files(directory, data, {"bos_token": special[0], "eos_token": special[1]})


def write_qwen2(directory: Path, published: dict[str, Any]) -> None:
    data = tokenizers_made.tokenizer_json(
        model(published, 151643),
        [*published["tokens"][151643:151646], "<image>", "<video>"],
        tokenizers_made.QWEN2_REGEX,
        normalizer={"type": "NFC"},
    )
    tokenizers_made.write_files(directory, data, {"bos_token": None, "eos_token": "<|im_end|>"})


def write_phi_3(directory: Path, published: dict[str, Any]) -> None:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    keys = ("tokens", "scores", "token_type")
    for id_, (token, score, type_) in enumerate(zip(*(published[key][:32000] for key in keys), strict=True)):
        proto.pieces.add(piece=token, score=score, type=(2, 3, 3)[id_] if id_ < 3 else type_)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = 32000
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    (directory / "tokenizer.model").write_bytes(proto.SerializeToString())
    decoder = {
        str(id_): {"content": text, "rstrip": id_ != 32000, "special": True, **NO_FLAGS}
        for id_, text in enumerate(published["tokens"][32000:32011], 32000)
    }
    decoder["2"] = {"content": "</s>", "rstrip": True, "special": False, **NO_FLAGS}
    decoder["32038"] = {"content": "<image>", "rstrip": False, "special": True, **NO_FLAGS}
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))


def model(published: dict[str, Any], n_tokens: int) -> dict[str, Any]:
    """The section `model` of tokenizer.json."""
    tokens = {token: id_ for id_, token in enumerate(published["tokens"][:n_tokens])}
    options = {"dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    return {"type": "BPE", "vocab": tokens, "merges": published["merges"], **options}


@pytest.mark.parametrize(
    ("name", "write", "n_rows", "image_token", "n_tokens", "ends"),
    [
        ("llama-bpe", write_llama_3, 128320, 128257, 128257, (128001, 128009)),
        ("qwen2", write_qwen2, 152000, 151646, 151646, (151643, 151645)),
        ("phi-3", write_phi_3, 32064, 32038, 32011, (2, 32000, 32007)),
    ],
)
def test_ids_equal_the_tokenizers_own(
    metadata, with_tokenizer, language_of, name, write, n_rows, image_token, n_tokens, ends
):
    published = metadata(name)
    directory = with_tokenizer(lambda target: write(target, published), n_rows, image_token)
    language, vocabulary = language_of(directory), Checkpoint.open(str(directory)).vocabulary
    assert len(vocabulary) == n_tokens
    assert vocabulary.end_ids == ends
    special = [token.text for token in vocabulary.added.values()][:20]
    texts = [*probe_texts(vocabulary), *random_texts(N_TEXTS, seed=5, special=special)]
    for text, ids in zip(texts, original_ids(directory, vocabulary, texts), strict=True):
        assert language.tokenize(text, add_bos=False) == ids, text
    renamed = set(vocabulary.tokens[: len(published["tokens"])]) - set(published["tokens"])
    assert renamed <= {"</s>Ġ", "<unk>"}


def test_digits(metadata, with_tokenizer, language_of):
    """In groups of three by Llama-3, one by one by Qwen2."""
    lengths = {}
    for name, write, n_rows in (("llama-bpe", write_llama_3, 128320), ("qwen2", write_qwen2, 152000)):
        published = metadata(name)
        directory = with_tokenizer(lambda target, w=write, p=published: w(target, p), n_rows, n_rows - 1)
        lengths[name] = len(language_of(directory).tokenize("1234567", add_bos=False))
    assert lengths == {"llama-bpe": 3, "qwen2": 7}
