"""The language section of a manifest: the language model as deployed, and how text becomes its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edge_llava.bundle.json_fields import JsonFields
from edge_llava.bundle.template_spec import TemplateSpec, read_named_template, read_template
from edge_llava.ggml.limits import MAX_BLOCKS, MAX_INT32
from edge_llava.ggml.types import GgmlType

ARCHITECTURES = ("llama", "qwen2")
TOKENIZER_MODELS = ("llama", "gpt2")
# llama.cpp's names of the rules by which a byte-level tokenizer splits text into words; "default" for SentencePiece.
PRE_TOKENIZERS = ("default", "llama-bpe", "qwen2", "gpt-2", "phi-2")
NORMALIZERS = ("none", "nfc")
QUANTS = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K+Q5_K", "Q4_K_S", "Q4_0", "IQ4_XS+Q5_K",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "IQ2_M", "IQ2_S",
    "IQ2_XS", "IQ2_XXS",
)  # fmt: skip
# Without an importance matrix these lose so much that llama.cpp refuses them.
NEED_IMPORTANCE = ("IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
MIXED = "MIXED"  # a type for each matrix, chosen for a size
_MAX_END_TOKENS = 64


@dataclass(frozen=True)
class TokenizerSpec:
    """How text becomes tokens.

    Attributes:
        model: llama.cpp's name of the kind: "llama" (SentencePiece with byte fallback) or "gpt2" (byte-level BPE).
        pre: One of PRE_TOKENIZERS.
        adds_bos: Whether a prompt begins with the token `LanguageSpec.bos`.
        adds_space: Whether a text that begins, or follows a special token, gets a space in front.
        normalizer: Unicode form that text is brought into before it is tokenized: "none" or "nfc".
        strips_after: Ids of special tokens after which white space is dropped.
    """

    model: str
    pre: str
    adds_bos: bool
    adds_space: bool
    normalizer: str
    strips_after: tuple[int, ...] = ()


SENTENCEPIECE = TokenizerSpec("llama", "default", adds_bos=True, adds_space=True, normalizer="none")


@dataclass(frozen=True)
class ImportanceSpec:
    """What the language model was measured on, so that its weights keep their precision where it counts.

    Attributes:
        n_dialogues: Conversations about images.
        n_positions: Rows of tokens and images that they have together.
    """

    n_dialogues: int
    n_positions: int


@dataclass(frozen=True)
class MixedTensor:
    """A matrix of a MIXED language model: its ggml type, and the share of the results that it costs."""

    type: str
    loss: float


@dataclass(frozen=True)
class LanguageSpec:
    """The language model.

    Attributes:
        architecture: llama.cpp's name of it, one of ARCHITECTURES.
        n_embd: Width E of an embedding row.
        n_layer, n_head, n_head_kv: Blocks, query heads, key/value heads.
        n_vocab: Rows of the token embedding, equal to the number of tokens.
        n_ctx_train: Positions that the model was trained for.
        quant: One of QUANTS, or MIXED.
        template: What stands around a conversation.
        bos: Token id that opens a prompt where `tokenizer.adds_bos`.
        eos: Token id that ends an answer.
        end_ids: All token ids that end an answer, `eos` among them.
        tokenizer: How text becomes tokens.
        importance: What an importance matrix was measured on; None: the weights were quantized without one.
        mix: Of MIXED, the type of every matrix of the blocks by its GGUF name, and the loss that was measured for it,
            comparable with that of other matrices.
    """

    architecture: str
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_ctx_train: int
    quant: str
    template: TemplateSpec
    bos: int
    eos: int
    end_ids: tuple[int, ...]
    tokenizer: TokenizerSpec
    importance: ImportanceSpec | None = None
    mix: Mapping[str, MixedTensor] = field(default_factory=dict, hash=False)

    def describe_quantization(self) -> str:
        """The types of the weights, and what was measured to quantize them, in words."""
        counts = Counter(tensor.type for tensor in self.mix.values())
        mix = f" ({', '.join(f'{n} {type_}' for type_, n in counts.most_common())})" if counts else ""
        measured = "" if self.importance is None else f", measured on {self.importance.n_dialogues} conversations"
        return f"{self.quant}{mix}{measured}"


def read_language(fields: JsonFields, version: int) -> LanguageSpec:
    """The section `language` of a manifest of this format version; its faults are noted in `fields`.

    Version 1 knows LLaMA with SentencePiece only.
    """
    eos = fields.integer("eos", 0)
    importance, mix = fields.optional_object("importance"), fields.optional_object("mix")
    return LanguageSpec(
        architecture="llama" if version == 1 else fields.text("architecture", ARCHITECTURES),
        n_embd=fields.integer("n_embd", 1, MAX_INT32),
        n_layer=fields.integer("n_layer", 1, MAX_BLOCKS),
        n_head=fields.integer("n_head", 1, MAX_INT32),
        n_head_kv=fields.integer("n_head_kv", 1, MAX_INT32),
        n_vocab=fields.integer("n_vocab", 1, MAX_INT32),
        n_ctx_train=fields.integer("n_ctx_train", 1, MAX_INT32),
        quant=fields.text("quant", (*QUANTS, MIXED)),
        template=_read_template(fields, version),
        bos=fields.integer("bos", 0),
        eos=eos,
        end_ids=(eos,) if version == 1 else fields.counts("end_ids", _MAX_END_TOKENS),
        tokenizer=SENTENCEPIECE if version == 1 else _read_tokenizer(fields.object("tokenizer")),
        importance=None if importance is None else _read_importance(importance),
        mix={} if mix is None else {name: _read_mixed(mix.object(name)) for name in mix.names()},
    )


def _read_mixed(fields: JsonFields) -> MixedTensor:
    return MixedTensor(fields.text("type", tuple(type_.name for type_ in GgmlType)), fields.number("loss", 0, 1e300))


def _read_importance(fields: JsonFields) -> ImportanceSpec:
    return ImportanceSpec(fields.integer("n_dialogues", 1), fields.integer("n_positions", 1))


def _read_template(fields: JsonFields, version: int) -> TemplateSpec:
    if version == 1:
        return read_named_template(fields, "template", image_marks=fields.boolean("image_marks"))
    return read_template(fields, "template")


def _read_tokenizer(fields: JsonFields) -> TokenizerSpec:
    return TokenizerSpec(
        model=fields.text("model", TOKENIZER_MODELS),
        pre=fields.text("pre", PRE_TOKENIZERS),
        adds_bos=fields.boolean("adds_bos"),
        adds_space=fields.boolean("adds_space"),
        normalizer=fields.text("normalizer", NORMALIZERS),
        strips_after=fields.counts("strips_after", _MAX_END_TOKENS),
    )


def find_language_faults(language: LanguageSpec) -> Iterator[str]:
    """Fields that are each valid and yet cannot be true together."""
    if language.n_head % language.n_head_kv:  # llama.cpp ends the process
        yield f"language.n_head {language.n_head} is not a multiple of n_head_kv {language.n_head_kv}"
    for name, ids in (
        ("bos", (language.bos,)),
        ("eos", (language.eos,)),
        ("end_ids", tuple(id_ for id_ in language.end_ids if id_ != language.eos)),
        ("tokenizer.strips_after", language.tokenizer.strips_after),
        ("template", tuple(piece for piece in language.template.pieces() if isinstance(piece, int))),
    ):
        if outside := [id_ for id_ in ids if id_ >= language.n_vocab]:
            yield f"language.{name} {outside[0]} is outside the vocabulary of {language.n_vocab}"
    if language.eos < language.n_vocab and language.eos not in language.end_ids:
        yield f"language.end_ids does not contain eos {language.eos}"
    if (language.tokenizer.model == "llama") != (language.tokenizer.pre == "default"):
        yield f"language.tokenizer.pre {language.tokenizer.pre!r} does not go with {language.tokenizer.model!r}"
