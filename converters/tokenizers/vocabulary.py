"""The tokens of a checkpoint, in the form that llama.cpp's tokenizers need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from edge_llava.bundle.language_spec import SENTENCEPIECE, TokenizerSpec
from edge_llava.converters.tokenizers.added_tokens import AddedToken

UNMERGED_SCORE = -1e9


class TokenType(IntEnum):
    """llama.cpp's token types."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """Tokens in id order; `len(tokens)` is the number of deployed embedding rows.

    Attributes:
        tokens: Of SentencePiece, pieces with U+2581 for a space; of byte-level BPE, one letter of its alphabet for
            each byte, but the text itself of added tokens.
        scores: The highest score merges first. All 0 for byte-level BPE, which has merges.
        types: One per token.
        merges: Of byte-level BPE: pairs of tokens with a space between them, the first merges first.
        bos, eos: Ids of the special tokens; `bos` opens a prompt only if `spec.adds_bos`.
        unk: Id of the token for what has no other; None for byte-level BPE, which always has one.
        end_ids: Ids of all tokens that end an answer, `eos` among them.
        spec: How text becomes these tokens.
        added: The added tokens among them, by id.
    """

    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    bos: int = 1
    eos: int = 2
    unk: int | None = 0
    end_ids: tuple[int, ...] = (2,)
    spec: TokenizerSpec = SENTENCEPIECE
    added: Mapping[int, AddedToken] = field(default_factory=dict)

    def append(self, token: str, score: float, type_: TokenType) -> None:
        """Adds a token with the next id."""
        self.tokens.append(token)
        self.scores.append(score)
        self.types.append(type_)

    def specials(self) -> dict[str, int]:
        """Ids of the tokens that stand for themselves wherever their text does, by text."""
        wanted = (TokenType.CONTROL, TokenType.USER_DEFINED)
        typed = zip(self.tokens, self.types, strict=True)
        return {token: id_ for id_, (token, type_) in enumerate(typed) if type_ in wanted}

    def __len__(self) -> int:
        return len(self.tokens)
