"""Tokenizers beside LLaMA's own: byte-level BPE, SentencePiece without a space, tokens that swallow white space."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import tokenizers_made
from random_texts import random_texts

from edge_llava.bundle.language_spec import TokenizerSpec
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.tokenizers.gguf_vocabulary import neutral_name
from edge_llava.converters.tokenizers.original_ids import original_ids
from edge_llava.converters.tokenizers.probes import probe_texts
from edge_llava.converters.tokenizers.reading import read_vocabulary
from edge_llava.converters.tokenizers.reserved_texts import END_TEXTS
from edge_llava.converters.tokenizers.vocabulary import TokenType
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

WRITERS = {"llama-bpe": tokenizers_made.write_llama_3, "qwen2": tokenizers_made.write_qwen2}
PHI_3 = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def fast_tokenizer(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_model(directory: Path, change: Callable[[Any], None]) -> None:
    from sentencepiece import sentencepiece_model_pb2

    path = directory / "tokenizer.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(params=WRITERS)
def made(request, with_tokenizer) -> Path:
    """A checkpoint with a byte-level tokenizer, <image> and <pad>."""
    return with_tokenizer(partial(WRITERS[request.param], extra=("<image>", "<pad>")))


@pytest.fixture
def seeded(make_checkpoint, shape, copy_of) -> Path:
    """A checkpoint with the seeded SentencePiece tokenizer, which the test may change; 576 rows."""
    return copy_of(make_checkpoint(shape(), seed=41))


def test_byte_level_ids_equal_the_fast_tokenizers(made, language_of):
    language, fast = language_of(made), fast_tokenizer(made)
    special = [token for token in fast.get_added_vocab() if token not in ("<image>", "<pad>")]
    opening = [language.spec.bos] if language.spec.tokenizer.adds_bos else []
    for text in random_texts(2000, seed=1, special=special):
        ids = fast.encode(text, add_special_tokens=False)
        assert language.tokenize(text, add_bos=False) == ids, text
        assert language.tokenize(text, add_bos=True) == [*opening, *ids] == fast.encode(text), text
        assert language.tokenize_within(text) == ids, text


def test_pieces_spell_the_text(made, language_of):
    language = language_of(made)
    normalize = partial(unicodedata.normalize, "NFC") if language.spec.tokenizer.normalizer == "nfc" else str
    for text in random_texts(200, seed=2):
        pieces = b"".join(map(language.piece, language.tokenize(text, add_bos=False)))
        assert pieces == normalize(text).encode(), text


def test_a_json_schema_is_followed_in_bytes(made, language_of):
    from edge_llava.runtime.language.json_grammar import JsonGrammar

    language = language_of(made)
    grammar = JsonGrammar({"const": "Größe 你好"}, language.json_tokenizer)
    written = b""
    for _ in range(100):
        token = grammar.sample(lambda ids: int(ids[-1]))
        if language.is_end(token):
            break
        grammar.accept(token)
        written += language.piece(token)
    assert json.loads(written) == "Größe 你好"


def test_the_spec_of_llama_3(with_tokenizer):
    directory = with_tokenizer(partial(tokenizers_made.write_llama_3, extra=("<image>", "<pad>")))
    vocabulary = read_vocabulary(directory, 576, 512, [directory])
    assert vocabulary.spec == TokenizerSpec("gpt2", "llama-bpe", True, False, "none")
    assert (len(vocabulary), vocabulary.bos, vocabulary.eos, vocabulary.unk) == (512, 416, 417, None)
    assert [vocabulary.tokens[id_] for id_ in vocabulary.end_ids] == ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    assert set(vocabulary.types[:416]) == {TokenType.NORMAL}
    assert set(vocabulary.types[416:]) == {TokenType.CONTROL}
    assert len(vocabulary.merges) == 416 - 256
    assert all(merge.count(" ") == 1 for merge in vocabulary.merges)


def test_the_spec_of_qwen2(with_tokenizer):
    directory = with_tokenizer(partial(tokenizers_made.write_qwen2, extra=("<image>", "<video>", "<box>")))
    vocabulary = read_vocabulary(directory, 576, 512, [directory])
    assert vocabulary.spec == TokenizerSpec("gpt2", "qwen2", False, False, "nfc")
    assert [vocabulary.tokens[id_] for id_ in vocabulary.end_ids] == ["<|endoftext|>", "<|im_end|>"]
    assert (vocabulary.bos, vocabulary.eos) == (511, 511)
    assert vocabulary.tokens[509:] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[PAD512]", "[PAD513]", "<box>"]
    assert vocabulary.types[509:] == [TokenType.CONTROL] * 3 + [TokenType.UNUSED] * 2 + [TokenType.CONTROL]


def test_gguf_of_a_byte_level_vocabulary(made, language_of, tmp_path, read_gguf):
    language_of(made)
    file, vocabulary = read_gguf(tmp_path / "language-0.gguf"), Checkpoint.open(str(made)).vocabulary
    metadata = {key.removeprefix("tokenizer.ggml."): value for key, value in file.metadata.items() if "ggml." in key}
    assert metadata == {
        "model": "gpt2",
        "pre": vocabulary.spec.pre,
        "tokens": vocabulary.tokens,
        "token_type": [int(type_) for type_ in vocabulary.types],
        "merges": vocabulary.merges,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "add_bos_token": vocabulary.spec.adds_bos,
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    assert file.tensors["token_embd.weight"][1] == (16, 512)


def test_a_picture_inside_the_vocabulary_keeps_its_row_and_is_never_found(with_tokenizer, language_of):
    """JoyCaption's picture is <|reserved_special_token_69|>, 77 behind the first special token."""
    directory = with_tokenizer(tokenizers_made.write_llama_3, image_token=416 + 77)
    language, text = language_of(directory), "a<|reserved_special_token_69|>b<|reserved_special_token_70|>"
    assert language.spec.n_vocab == 512
    ids = language.tokenize(text, add_bos=False)
    assert ids[-1] == 416 + 78
    assert 416 + 77 not in ids
    assert b"".join(map(language.piece, ids)) == b"a<|reserved_special_token_69|>b"


@pytest.mark.parametrize("eos", [[417, 424, 425], 425, "none", [True, 9999, 3, -1]])
def test_ends_from_configs(with_tokenizer, edit_config, eos):
    directory = with_tokenizer(partial(tokenizers_made.write_llama_3, version="3"))
    edit_config(directory, {"text_config.eos_token_id": eos})
    vocabulary = Checkpoint.open(str(directory)).vocabulary
    if eos == 425:
        assert (vocabulary.eos, vocabulary.end_ids) == (425, (417, 425))
    elif eos == [417, 424, 425]:
        assert (vocabulary.eos, vocabulary.end_ids) == (417, (417, 424, 425))
    else:
        assert (vocabulary.eos, vocabulary.end_ids) == (417, (417, 425))


def test_generation_config_has_the_first_word(with_tokenizer):
    directory = with_tokenizer(tokenizers_made.write_llama_3)
    (directory / "generation_config.json").write_text('{"eos_token_id": [425, 417]}')
    assert Checkpoint.open(str(directory)).vocabulary.eos == 425


def test_every_recorded_end_is_one_for_llama_cpp(with_tokenizer, language_of):
    unlike = {"<|tool_response>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>"}  # of models whose others end less
    extra = sorted(END_TEXTS - unlike - {"<|im_end|>", "<|endoftext|>"})
    directory = with_tokenizer(partial(tokenizers_made.write_qwen2, extra=extra), image_token=575)
    language = language_of(directory)
    ends = {token for token in range(language.spec.n_vocab) if language.is_end(token)}
    assert ends == set(language.spec.end_ids)
    assert {token for token in ends if llama_cpp.llama_vocab_is_eog(language.vocabulary, token)} == ends
    assert len(ends) == len(extra) + 2


def test_an_ordinary_token_with_the_text_of_an_end(with_tokenizer, language_of):
    """Qwen2 has one, </s>, which its own tokenizer never produces."""
    directory = with_tokenizer(tokenizers_made.write_qwen2)

    def rename(data: dict[str, Any]) -> None:
        pieces = data["model"]["vocab"]
        pieces["</s>"] = pieces.pop("Ġwind")
        data["model"]["merges"] = [m for m in data["model"]["merges"] if "".join(m) != "Ġwind" and "Ġwind" not in m]

    edit_json(directory / "tokenizer.json", rename)
    language, text = language_of(directory), "<s>old</s> and"
    assert language.tokenize(text, add_bos=False) == fast_tokenizer(directory).encode(text)
    assert not any(language.is_end(token) for token in language.tokenize(text, add_bos=False))
    assert not language.is_end(Checkpoint.open(str(directory)).vocabulary.tokens.index("</s>Ġ"))


def test_combining_marks_after_special_tokens(with_tokenizer, language_of):
    """NFC would join the > of a token with what follows; the tokens are found before."""
    directory = with_tokenizer(tokenizers_made.write_qwen2)
    language, fast = language_of(directory), fast_tokenizer(directory)
    for text in ("<|im_end|>\u0338a", "e\u0301<|im_end|>\u0301", "u\u0308\n<|im_start|>u\u0308"):
        assert language.tokenize(text, add_bos=False) == fast.encode(text), text


def test_a_wrong_pre_tokenizer_fails_the_proof(with_tokenizer, language_of, monkeypatch):
    from edge_llava.converters.tokenizers import byte_level

    directory = with_tokenizer(tokenizers_made.write_llama_3)
    texts = probe_texts(Checkpoint.open(str(directory)).vocabulary)
    expected = original_ids(directory, Checkpoint.open(str(directory)).vocabulary, texts)
    assert [language_of(directory).tokenize(text, add_bos=False) for text in texts] == expected
    for pre in ("qwen2", "gpt-2"):
        monkeypatch.setattr(byte_level, "find_pre_tokenizer", lambda _, pre=pre: (pre, []))
        language = language_of(directory)
        assert [language.tokenize(text, add_bos=False) for text in texts] != expected


def test_a_whole_conversion(with_tokenizer, convert_to):
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.model import load

    bundle = convert_to(with_tokenizer(partial(tokenizers_made.write_llama_3, extra=("<image>",))), quant="F32")
    manifest = Bundle.open(bundle).manifest
    figures = manifest.parity["tokenizer"]
    assert figures.tokens_equal == figures.tokens_total
    assert figures.tokens_total > 1500
    assert manifest.parity["language"].tokens_equal == manifest.parity["language"].tokens_total
    with load(bundle) as model:
        assert "".join(token.text for token in model.session().ask("What is this?"))


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path
        for key in parents:
            data = data[int(key) if key.isdigit() else key]  # type: ignore[call-overload]
        data[int(last) if last.isdigit() else last] = value  # type: ignore[call-overload]

    return change


SPLIT = ("pre_tokenizer", "pretokenizers", "0")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set(*SPLIT, "pattern", value={"Regex": r"\p{N}{1,2}|\p{L}+"}), "the nearest that llama.cpp knows is "),
        (_set(*SPLIT, "pattern", value={"String": " "}), r"its pre_tokenizer splits at \{'String': ' '\}"),
        (_set(*SPLIT, "behavior", value="Removed"), "its pre_tokenizer has the step "),
        (_set("pre_tokenizer", value=None), "its pre_tokenizer is missing; known are llama-bpe, qwen2, gpt-2"),
        (_set("pre_tokenizer", value={"type": "Whitespace"}), "its pre_tokenizer ends with 'Whitespace' instead of"),
        (_set("pre_tokenizer", "pretokenizers", "1", "add_prefix_space", value=True), "puts a space in front"),
        (_set("model", "ignore_merges", value=False), "splits text as llama-bpe does, but its ignore_merges is False"),
        (_set("normalizer", value={"type": "NFKC"}), r"it changes text before it is split \(NFKC\); known is NFC"),
        (
            _set("normalizer", value={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
            r"it changes text before it is split \(NFC, Lowercase\)",
        ),
        (_set("model", "dropout", value=0.1), "its model has dropout 0.1"),
        (_set("model", "continuing_subword_prefix", value="##"), "its model has continuing_subword_prefix '##'"),
        (_set("model", "vocab", "a", value=600), "it has no token with the id "),
        (lambda data: data["model"]["vocab"].pop("Ġ"), "1 of the 256 bytes have no token"),
        (_set("model", "vocab", "a", value=5), "two of its tokens have the same id"),
        (
            _set("post_processor", "processors", "1", "single", value=[{"Sequence": {}}, {"SpecialToken": {}}]),
            "its post_processor puts tokens around a text in an unknown way",
        ),
    ],
)  # fmt: skip
def test_tokenizers_that_llama_cpp_cannot_follow(with_tokenizer, change, fault):
    directory = with_tokenizer(tokenizers_made.write_llama_3)
    edit_json(directory / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=fault):
        read_vocabulary(directory, 576, 512)


@pytest.mark.parametrize("flag", ["lstrip", "single_word"])
def test_flags_that_are_not_supported(with_tokenizer, flag):
    directory = with_tokenizer(tokenizers_made.write_llama_3)
    path = directory / "tokenizer_config.json"
    edit_json(path, lambda data: data["added_tokens_decoder"]["425"].update({flag: True}))
    with pytest.raises(CheckpointError, match=rf"the added token '<\|eot_id\|>' has {flag} true"):
        read_vocabulary(directory, 576, 512)


def test_without_a_named_end(with_tokenizer):
    directory = with_tokenizer(tokenizers_made.write_llama_3)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json does not name a token of it as eos_token"):
        read_vocabulary(directory, 576, 512)


def write_phi_3(directory: Path) -> None:
    """Adds Phi-3's tokens, with their flags, behind <image> and <pad>."""
    flags = {"lstrip": False, "normalized": False, "single_word": False}
    decoder = {
        str(514 + index): {"content": text, "rstrip": text != "<|endoftext|>", "special": True, **flags}
        for index, text in enumerate(PHI_3)
    }
    decoder["2"] = {"content": "</s>", "rstrip": True, "special": False, **flags}
    config = {"added_tokens_decoder": decoder, "add_bos_token": True, "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["neutral", "llava-phi-3-mini-hf"])
def test_white_space_after_phi_3s_tokens(seeded, language_of, edit_config, name):
    """llama.cpp drops it only where a model is called Phi-3, and after every special token."""
    write_phi_3(seeded)
    edit_config(seeded, {"text_config.eos_token_id": 514})
    (seeded / "generation_config.json").unlink()
    directory = seeded.rename(seeded.parent / name)
    language, vocabulary = language_of(directory), Checkpoint.open(str(directory)).vocabulary
    assert language.spec.tokenizer.strips_after == (2, 515, 516, 517, 518)
    assert (language.spec.eos, language.spec.end_ids) == (514, (2, 514, 517))
    prompt = "<|user|>\nWhat is this?<|end|>\n<|assistant|>\n"
    assert language.tokenize(prompt, add_bos=False) == language.tokenize(prompt.replace("\n", ""), add_bos=False)
    texts = [prompt, *probe_texts(vocabulary), *random_texts(500, seed=3, special=[*PHI_3, "</s>"])]
    for text, ids in zip(texts, original_ids(directory, vocabulary, texts), strict=True):
        assert language.tokenize(text, add_bos=False) == ids, text


@pytest.mark.parametrize("adds_bos", [True, False])
def test_sentencepiece_without_a_space_in_front(seeded, language_of, adds_bos):
    """Yi's kind."""
    edit_model(seeded, lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", False))
    (seeded / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": adds_bos}))
    language, vocabulary = language_of(seeded), Checkpoint.open(str(seeded)).vocabulary
    assert vocabulary.spec == replace(vocabulary.spec, adds_bos=adds_bos, adds_space=False)
    texts = list(random_texts(500, seed=4, special=["</s>"]))
    for text, ids in zip(texts, original_ids(seeded, vocabulary, texts), strict=True):
        assert language.tokenize(text, add_bos=False) == ids, text
        assert language.tokenize(text, add_bos=True) == [1] * adds_bos + ids, text
        assert language.tokenize_within(text) == ids, text


def test_added_tokens_among_the_pieces(seeded, language_of):
    """Yi's <|im_end|> is one of the pieces."""

    def rename(model: Any) -> None:
        model.pieces[300].piece = "<|im_end|>"

    edit_model(seeded, rename)
    decoder = {"300": {"content": "<|im_end|>", "special": True}}
    (seeded / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    language, vocabulary = language_of(seeded), Checkpoint.open(str(seeded)).vocabulary
    assert vocabulary.types[300] is TokenType.CONTROL
    assert vocabulary.end_ids == (2, 300)
    text = "a<|im_end|>b"
    assert [language.tokenize(text, add_bos=False)] == original_ids(seeded, vocabulary, [text])
    assert 300 in language.tokenize(text, add_bos=False)


@pytest.mark.parametrize(
    ("name", "neutral"),
    [("llava-phi-3-mini", "llava-phi_3-mini"), ("LLaVA-Phi3", "LLaVA-Phi_3"), ("llava-1.5-7b-hf", "llava-1.5-7b-hf")],
)
def test_names_that_llama_cpp_would_act_upon(name, neutral):
    assert neutral_name(name) == neutral


def test_files_of_a_slow_tokenizer_only(with_tokenizer):
    directory = with_tokenizer(tokenizers_made.write_qwen2)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.json and merges\.txt, AutoTokenizer"):
        read_vocabulary(directory, 576, 512)
