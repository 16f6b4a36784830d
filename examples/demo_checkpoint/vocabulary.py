"""The demo's own SentencePiece vocabulary, of the same kind as LLaMA's: BPE, byte fallback, no normalization."""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece

N_TOKENS = 1024


def train_vocabulary(texts: Iterable[str]) -> bytes:
    """Trains the tokenizer.model of a corpus; ids 0, 1 and 2 are <unk>, <s> and </s>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=N_TOKENS,
        byte_fallback=True,
        character_coverage=1.0,
        # as LLaMA's: every space and newline counts
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class DemoTokenizer:
    """Tokenizes text with a tokenizer.model."""

    def __init__(self, model: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def __len__(self) -> int:
        return int(self._processor.vocab_size())

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The ids of a text, preceded by <s> if special tokens are requested."""
        ids: list[int] = self._processor.encode(text, add_bos=add_special_tokens)
        return ids
