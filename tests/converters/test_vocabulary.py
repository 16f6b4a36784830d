"""Tokens of a checkpoint: the same ids in llama.cpp as in the slow tokenizer that LLaVA was trained with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.language_gguf import write_language
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.tokenizers.reading import read_vocabulary
from edge_llava.converters.tokenizers.vocabulary import TokenType, Vocabulary
from edge_llava.errors import CheckpointError
from edge_llava.home.progress import silent

pytestmark = pytest.mark.convert

TEXTS = (
    "What is shown in this picture?",
    "A chat between a curious human and an artificial intelligence assistant.",
    "USER: ",
    " ASSISTANT:",
    "\nWhat is this? ASSISTANT:",
    "two  spaces,   three, and\ta tab",
    "   in front, and behind   ",
    "one\ntwo\n\nthree\r\nfour\n",
    "1234567890 3.14 -42 1,000,000 0x1F",
    "Größe, café, naïve, Ærøskøbing, Łódź",
    "你好，世界。これは何ですか？ 안녕하세요",  # noqa: RUF001
    "Привет! שלום مرحبا नमस्ते",
    "🙂🐈‍⬛👩🏽‍🚀 e\u0301 ﬁ ½ ™ \u00a0 \u200b",
    "def f(x):\n    return {'a': [x, -x]}  # <b>",
    "###Human: hi###Assistant:",
    "<image> <pad> <s>",
    "a</s>b",
    "ASSISTANT: It is a cup.</s>USER: And this? ASSISTANT:",
    "</s>USER: Is it left of the lamp? ASSISTANT:",
    "<0x0A> and <unk>, ▁ and ▁▁",
    "\x00\x01\x7f\u0080\U0010ffff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the THE theThe",
)
QUESTION_IDS = [
    1, 319, 13563, 1546, 263, 12758, 5199, 322, 385, 23116, 21082, 20255, 29889, 450, 20255, 4076, 8444, 29892, 13173,
    29892, 322, 1248, 568, 6089, 304, 278, 5199, 29915, 29879, 5155, 29889, 3148, 1001, 29901, 29871,
]  # fmt: skip
ANSWER_IDS = [29871, 13, 5618, 338, 445, 29973, 319, 1799, 9047, 13566, 29901]


class Tokenizer:
    """llama.cpp's tokenizer of a language.gguf."""

    def __init__(self, path: Path) -> None:
        self._llama = llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False)

    def __call__(self, text: str, *, bos: bool) -> list[int]:
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=bos, special=True)
        return ids

    def close(self) -> None:
        self._llama.close()


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory) -> Iterator[Callable[[Path], Tokenizer]]:
    """tokenizer_of(checkpoint) -> llama.cpp's tokenizer of its language.gguf."""
    opened: list[Tokenizer] = []

    def make(directory: Path) -> Tokenizer:
        opened.append(Tokenizer(write(directory, tmp_path_factory.mktemp("gguf") / "language.gguf")))
        return opened[-1]

    yield make
    for tokenizer in opened:
        tokenizer.close()


def write(directory: Path, path: Path) -> Path:
    encoder = Encoder(1)
    write_language(Checkpoint.open(str(directory)), path, "F32", encoder, silent)
    encoder.close()
    return path


def slow_tokenizer(directory: Path) -> Any:
    from transformers import LlamaTokenizer

    return LlamaTokenizer(vocab_file=str(directory / "tokenizer.model"), legacy=True)


def write_fast(directory: Path) -> None:
    """Replaces tokenizer.model by the tokenizer.json that transformers makes from it."""
    from transformers import LlamaTokenizerFast

    fast = LlamaTokenizerFast(vocab_file=str(directory / "tokenizer.model"), legacy=True, add_prefix_space=True)
    fast.backend_tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer.model").unlink()


def edit_model(directory: Path, change: Callable[[Any], None]) -> None:
    """Changes tokenizer.model."""
    from sentencepiece import sentencepiece_model_pb2

    path = directory / "tokenizer.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def checkpoint(make_checkpoint, shape, copy_of) -> Path:
    """A copy that the test may change; 576 rows for 512 tokens, <image> and <pad>."""
    return copy_of(make_checkpoint(shape(), seed=41))


def read(directory: Path, n_rows: int = 576, image_token: int | None = 512) -> Vocabulary:
    return read_vocabulary(directory, n_rows, image_token)


def test_the_demo_tokenizer_keeps_every_space(checkpoint):
    slow = slow_tokenizer(checkpoint)
    ids = [slow(text).input_ids[1:] for text in ("a", "a ", "a  ", "\na")]
    assert len({tuple(i) for i in ids}) == 4
    assert slow("\n").input_ids[-1] == 3 + 0x0A


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_ids_equal_the_slow_tokenizers(checkpoint, tokenizer_of, kind):
    slow = slow_tokenizer(checkpoint)
    if kind == "tokenizer.json":
        write_fast(checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    for text in TEXTS:
        ids = slow(text).input_ids
        expected = ids[1:] if text.startswith("<s>") else ids
        assert tokenizer(text, bos=True) == expected, text
        assert tokenizer(text, bos=False) == expected[1:], text


def test_both_files_give_the_same_vocabulary(checkpoint):
    from_model = read(checkpoint)
    write_fast(checkpoint)
    from_json = read(checkpoint)
    assert from_json.tokens == from_model.tokens
    assert from_json.types == from_model.types
    assert (
        (from_json.bos, from_json.eos, from_json.unk) == (from_model.bos, from_model.eos, from_model.unk) == (1, 2, 0)
    )
    merged = [
        i for i, piece in enumerate(from_json.tokens) if from_json.types[i] == TokenType.NORMAL and len(piece) > 1
    ]
    assert len(merged) > 100
    by_json = sorted(merged, key=lambda i: -from_json.scores[i])
    assert by_json == sorted(merged, key=lambda i: -from_model.scores[i])


def test_tokenizer_model_is_preferred(checkpoint):
    (checkpoint / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}, "added_tokens": []}')
    assert len(read(checkpoint)) == 512


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_numbers_are_refused(checkpoint, tmp_path, score):
    """The runtime refuses them: a conversion must not make what cannot be loaded."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString((checkpoint / "tokenizer.model").read_bytes())
    model.pieces[300].score = score
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"the score of the token '.+' is not a finite number"):
        read_vocabulary(tmp_path, 1024, None)


def test_types_scores_and_specials(checkpoint):
    vocabulary = read(checkpoint)
    assert vocabulary.tokens[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert vocabulary.types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert vocabulary.types[3:259] == [TokenType.BYTE] * 256
    assert set(vocabulary.types[259:]) == {TokenType.NORMAL}
    assert vocabulary.scores[259:] == [-float(i) for i in range(512 - 259)]


def test_gguf_holds_the_vocabulary(checkpoint, tmp_path, read_gguf, edit_config):
    edit_config(checkpoint, {"text_config.bos_token_id": 0, "text_config.eos_token_id": 1})  # as in v0 configs: wrong
    file, vocabulary = read_gguf(write(checkpoint, tmp_path / "l.gguf")), read(checkpoint)
    prefix = "tokenizer.ggml."
    metadata = {key.removeprefix(prefix): v for key, v in file.metadata.items() if key.startswith(prefix)}
    assert metadata == {
        "model": "llama",
        "pre": "default",
        "tokens": vocabulary.tokens,
        "scores": vocabulary.scores,
        "token_type": [int(type_) for type_ in vocabulary.types],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": True,
    }
    assert file.tensors["token_embd.weight"][1] == file.tensors["output.weight"][1] == (64, 512)
    assert file.metadata["llama.vocab_size"] == 512


def test_rows_beyond_the_tokens_are_cut(checkpoint):
    vocabulary = read(checkpoint)
    assert len(vocabulary) == 512
    assert not {"<image>", "<pad>"} & set(vocabulary.tokens)


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_tokens_that_a_user_added_are_kept(checkpoint, where):
    (checkpoint / "added_tokens.json").unlink()
    added = {512: ("<image>", True), 513: ("<pad>", True), 514: ("<box>", False), 515: ("<|end|>", True)}
    if where == "added_tokens.json":
        (checkpoint / where).write_text(json.dumps({text: id_ for id_, (text, _) in added.items()}))
    elif where == "tokenizer_config.json":
        decoder = {str(id_): {"content": text, "special": special} for id_, (text, special) in added.items()}
        (checkpoint / where).write_text(json.dumps({"added_tokens_decoder": decoder}))
    else:
        tokens = [{"id": id_, "content": text, "special": special} for id_, (text, special) in added.items()]
        (checkpoint / where).write_text(json.dumps({"added_tokens": tokens}))
    vocabulary = read(checkpoint)
    assert vocabulary.tokens[514:] == ["<box>", "<|end|>"]
    special = TokenType.USER_DEFINED if where == "added_tokens.json" else TokenType.CONTROL
    assert vocabulary.types[512:] == [TokenType.UNUSED, TokenType.UNUSED, TokenType.USER_DEFINED, special]


def test_added_tokens_are_found_in_text(checkpoint, tokenizer_of):
    decoder = {"514": {"content": "<box>", "special": False}, "515": {"content": "<|end|>", "special": True}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    tokenizer = tokenizer_of(checkpoint)
    ids = tokenizer("a<box>b<|end|>", bos=True)
    assert ids[0] == 1
    assert [id_ for id_ in ids if id_ >= 512] == [514, 515]
    assert not {512, 513} & set(tokenizer("<image><pad>", bos=True))


def test_an_added_token_without_a_row_is_left_out(checkpoint):
    decoder = {"600": {"content": "<box>", "special": False}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert len(read(checkpoint)) == 512


def test_more_tokens_than_rows(checkpoint):
    with pytest.raises(CheckpointError, match="the tokenizer has 512 tokens and the embedding 500 rows"):
        read(checkpoint, n_rows=500)


def test_no_tokenizer(checkpoint):
    (checkpoint / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"has neither tokenizer\.model nor tokenizer\.json"):
        read(checkpoint)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 100])
def test_a_broken_tokenizer_model(checkpoint, data):
    (checkpoint / "tokenizer.model").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read(checkpoint)


@pytest.mark.parametrize(
    ("section", "field", "value", "fault"),
    [
        ("trainer_spec", "model_type", 1, "it is not of type BPE"),
        ("normalizer_spec", "remove_extra_whitespaces", True, "it removes spaces"),
    ],
)
def test_models_that_llama_cpp_cannot_follow(checkpoint, section, field, value, fault):
    edit_model(checkpoint, lambda model: setattr(getattr(model, section), field, value))
    with pytest.raises(CheckpointError) as error:
        read(checkpoint)
    assert str(error.value).splitlines()[1:] == [f"  - {fault}"]


def test_a_normalizing_unigram_model(checkpoint):
    import sentencepiece

    model = io.BytesIO()
    sentences = ["the cat sat on the mat", "a dog and a cat", "what is shown in the picture?"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, model_type="unigram", vocab_size=26, minloglevel=2
    )
    (checkpoint / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(CheckpointError) as error:
        read(checkpoint)
    assert "it is not of type BPE" in str(error.value)
    assert "it has no byte fallback" in str(error.value)
    assert "it normalizes text (nmt_nfkc)" in str(error.value)


def test_pieces_that_the_model_itself_defines(checkpoint):
    def define(model: Any) -> None:
        model.pieces[300].type = TokenType.USER_DEFINED
        model.pieces[301].type = TokenType.UNUSED

    edit_model(checkpoint, define)
    assert read(checkpoint).types[299:302] == [TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED]


def edit_json(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    write_fast(directory)
    data = json.loads((directory / "tokenizer.json").read_text())
    change(data)
    (directory / "tokenizer.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    "changes",
    [{"type": "Unigram"}, {"type": "WordPiece"}, {"byte_fallback": False}, {"vocab": {"a": 0, "b": 1}}, {"vocab": {}}],
)
def test_json_of_another_kind(checkpoint, changes):
    edit_json(checkpoint, lambda data: data["model"].update(changes))
    with pytest.raises(CheckpointError, match=r"that llama.cpp can follow"):
        read(checkpoint)


def test_json_with_a_gap(checkpoint):
    edit_json(checkpoint, lambda data: data["model"]["vocab"].pop("<0x10>"))
    with pytest.raises(CheckpointError, match=r"its token ids are not 0 to 510\. Add tokenizer\.model"):
        read(checkpoint)


def test_json_without_end_of_sequence(checkpoint):
    def rename(data: dict[str, Any]) -> None:
        data["model"]["vocab"]["<end>"] = data["model"]["vocab"].pop("</s>")

    edit_json(checkpoint, rename)
    with pytest.raises(CheckpointError, match="lacks <s>, </s> or <unk>"):
        read(checkpoint)


def test_json_with_merges_as_pairs(checkpoint):
    def join(data: dict[str, Any]) -> None:
        merges = data["model"]["merges"]
        assert isinstance(merges[0], list)
        data["model"]["merges"] = [" ".join(pair) for pair in merges]

    write_fast(checkpoint)
    as_pairs = read(checkpoint)
    data = json.loads((checkpoint / "tokenizer.json").read_text())
    join(data)
    (checkpoint / "tokenizer.json").write_text(json.dumps(data))
    assert read(checkpoint) == as_pairs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("added_tokens.json", '{"<box>": "many"}'),
        ("added_tokens.json", '{"<box>": null}'),
        ("added_tokens.json", "[]"),
        ("added_tokens.json", "{"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"514": {}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": [514]}'),
        ("tokenizer.json", '{"added_tokens": [3]}'),
        ("tokenizer.json", '{"added_tokens": [{"content": "<box>"}]}'),
    ],
)
def test_broken_lists_of_added_tokens(checkpoint, name, text):
    (checkpoint / name).write_text(text)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read(checkpoint)


@pytest.mark.parametrize(
    "model", ["[]", '{"type": "BPE", "byte_fallback": true, "vocab": {"<0x00>": "x", "b": 1}}', '"x"', '{"vocab": 3}']
)
def test_a_broken_tokenizer_json(checkpoint, model):
    (checkpoint / "tokenizer.model").unlink()
    (checkpoint / "tokenizer.json").write_text(f'{{"model": {model}}}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read(checkpoint)


# From here: LLaMA's own 32,000 pieces, in a checkpoint with the 32,064 rows of llava-hf files.


@pytest.fixture(scope="module")
def llama_metadata(llama_vocabulary, read_gguf) -> dict[str, Any]:
    return read_gguf(llama_vocabulary).metadata


@pytest.fixture(scope="module")
def vicuna(llama_metadata, make_checkpoint, shape, tmp_path_factory) -> Path:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    for key in ("tokens", "scores", "token_type"):
        assert len(llama_metadata[f"tokenizer.ggml.{key}"]) == 32000
    pieces = zip(*(llama_metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")), strict=True)
    for token, score, type_ in pieces:
        model.pieces.add(piece=token, score=score, type=type_)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = 32000
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    directory = make_checkpoint(shape(width=16, ff=16, layers=1, heads=1, kv_heads=1, extra_rows=32064 - 512), 42)
    (directory / "tokenizer.model").write_bytes(model.SerializeToString())
    (directory / "added_tokens.json").write_text('{"<image>": 32000, "<pad>": 32001}')
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"image_token_index": 32000}))
    return directory


@pytest.fixture(scope="module")
def llama(vicuna, tmp_path_factory) -> Iterator[Tokenizer]:
    tokenizer = Tokenizer(write(vicuna, tmp_path_factory.mktemp("gguf") / "language.gguf"))
    yield tokenizer
    tokenizer.close()


def test_language_gguf_has_llamas_vocabulary(vicuna, llama_metadata, tmp_path, read_gguf):
    file = read_gguf(write(vicuna, tmp_path / "l.gguf"))
    for key in ("tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id"):
        assert file.metadata[f"tokenizer.ggml.{key}"] == llama_metadata[f"tokenizer.ggml.{key}"], key
    assert file.tensors["token_embd.weight"][1] == (16, 32000)


def test_ids_of_llamas_vocabulary_equal_the_slow_tokenizers(vicuna, llama):
    slow = slow_tokenizer(vicuna)
    for text in TEXTS:
        assert llama(text, bos=True) == slow(text).input_ids, text
        assert llama(text, bos=False) == slow(text).input_ids[1:], text


def test_llamas_tokenizer_json_gives_the_same_ids(vicuna, copy_of, llama, tokenizer_of):
    copy = copy_of(vicuna)
    write_fast(copy)
    from_json = tokenizer_of(copy)
    for text in TEXTS:
        assert from_json(text, bos=True) == llama(text, bos=True), text


def texts_of_turn(question: str, n_images: int, *, is_first: bool) -> list[str]:
    """The texts of a turn of llava_v1; an image stands between each two of them."""
    from edge_llava.bundle.template_spec import describe_template
    from edge_llava.bundle.templates import TEMPLATES
    from edge_llava.runtime.dialogue.planner import build_turn, merge_texts

    images: list[Any] = [object()] * n_images
    pieces = build_turn(describe_template(TEMPLATES["llava_v1"], {}), question, images, is_first=is_first)
    return [piece for piece in merge_texts(pieces) if isinstance(piece, str)]


def test_golden_ids_around_an_image(llama):
    before_image, after_image = texts_of_turn("What is this?", 1, is_first=True)
    assert llama(before_image, bos=True) == QUESTION_IDS
    assert llama(after_image, bos=False) == ANSWER_IDS


def test_two_turns_and_two_images(vicuna, llama):
    slow = slow_tokenizer(vicuna)
    first = texts_of_turn("Which of the two?", 2, is_first=True)
    second = texts_of_turn("And now?\nTwo lines 🙂", 1, is_first=False)
    texts = [first[0], "<image>", first[1], "<image>", first[2], " The left one: it's 42 cm."]
    texts += [second[0], "<image>", second[1]]
    ours: list[int] = []
    for text in texts:
        if text == "<image>":
            ours.append(-200)
        elif text == " The left one: it's 42 cm.":
            ours += llama(text[1:], bos=False)  # as the model writes it: its first token contains the space
        else:
            ours += llama(text, bos=not ours)
    theirs: list[int] = []
    for i, piece in enumerate("".join(texts).split("<image>")):
        ids = slow(piece).input_ids
        theirs += ids if i == 0 else [-200, *ids[1:]]
    assert ours == theirs
    assert ours.count(1) == 1
    assert [2, 3148, 1001, 29901] in [ours[i : i + 4] for i in range(len(ours))]
