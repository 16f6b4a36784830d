"""Texts whose tokens must be those of the checkpoint's own tokenizer; a bundle for which they are not is not made.

llama.cpp knows tokenizers by name and by a few flags. That a checkpoint's is the one of its name is proven with these.
"""

from __future__ import annotations

from edge_llava.bundle.parity_record import PROMPT_AFTER, PROMPT_BEFORE
from edge_llava.converters.tokenizers.vocabulary import Vocabulary

_TEXTS = (
    PROMPT_BEFORE,
    PROMPT_AFTER,
    "A chat between a curious human and an artificial intelligence assistant. USER: ",
    "</s>USER: 1,024 x 768?  Zwölf Äpfel, 三个苹果,\n\ttab and  spaces... ASSISTANT:",
    "1 12 123 1234567 3.14 -42 0x1F 10,000,000 ٣٤٥ Ⅻ ½ x²",
    "It's what they'LL say, isn't it? WE'RE done; I'd've",
    "Zwo\u0308lf A\u0308pfel, cafe\u0301, \u1ebf e\u0302\u0301, \u00c5 \u212b, \ud55c \u1112\u1161\u11ab, が か\u3099",
    "Привет! Ελληνικά שלום مرحبا नमस्ते ไทย 你好，世界。 これは何ですか？ 안녕하세요",  # noqa: RUF001
    "🙂🐈\u200d⬛👩🏽\u200d🚀 ™\u00a0ﬁ \u200b…",
    " one,  two,   three,\n\n\nfour\r\n five\t\tsix \n seven  \n",
    "def f(x):\n    return {'a': [x, -x]}  # <b> $%&/()=?!!\n\n",
    "<s>old</s> <|fim_prefix|><fim_pad> <EOT> <eos> <PRE><|file_sep|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa theTheTHE _under_score camelCase",
)
_MAX_SPECIAL = 48


def probe_texts(vocabulary: Vocabulary) -> list[str]:
    """The texts for a vocabulary: ordinary ones, and its added tokens with other text and white space around them."""
    tokens = list(vocabulary.added.values())
    striking = [token for token in tokens if token.rstrip or not token.special]
    chosen = {token.text for token in (*striking[:_MAX_SPECIAL], *tokens[: _MAX_SPECIAL // 2])}
    chosen |= {token.text for token in tokens[-_MAX_SPECIAL // 2 :]}
    return [*_TEXTS, *(f"One{text}two {text} three{text}\n \t\u00a0four\n{text}\n\n{text}" for text in sorted(chosen))]
