"""A JSON schema, as far as an answer has come: which tokens may follow. llguidance enforces it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from edge_llava.runtime.language.grammar import GrammarFault

# About 50 ms to compile, and 50 ms a token, at worst; an ordinary schema takes 1 ms and 0.05 ms.
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=500,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=100_000,
    step_max_items=10_000,
    max_lexer_states=50_000,
    max_grammar_size=20_000,
    verbose_errors=False,
)
# A bounded white space, so that a model cannot lose itself in it.
_SPACE = r" |\n {0,16}"
_SETTINGS = {"whitespace_pattern": _SPACE, "lenient": False, "coerce_one_of": False}
# Without forcing, a token may follow whenever its text may: the model splits texts into tokens as it likes.
_GRAMMAR = f'%llguidance {{"no_forcing": true}}\nstart: /({_SPACE})?/ answer\nanswer: %json '


def find_fault(schema: Mapping[str, Any]) -> str:
    """What llguidance finds wrong with a schema; empty if it can enforce it."""
    fault: str = llguidance.LLMatcher.validate_grammar(_write(schema), None, limits=_LIMITS)
    if "oneOf constraints" in fault:
        return "the branches of oneOf may overlap. Use anyOf, or give each a required property with a const of its own"
    fault = fault.partition("failed to compile JSON schema: ")[2] or fault
    for end in ("\n   1 | %llguidance", "\n  while processing"):
        fault = fault.partition(end)[0]
    return fault.rpartition("\nerror: ")[2].strip().replace("\n", " ")[:200]


class JsonGrammar:
    """A schema in the place of a `Grammar`, which its methods are described by. It need not be closed."""

    def __init__(self, strict_schema: Mapping[str, Any], tokenizer: llguidance.LLTokenizer) -> None:
        """Of what `json_schema.strict_schema` gives, and `tokenizer_of` the model's vocabulary."""
        self._matcher = llguidance.LLMatcher(tokenizer, _write(strict_schema), log_level=0, limits=_LIMITS)
        self._check()

    def sample(self, choose: Callable[[NDArray[np.int32]], int]) -> int:
        """A token that may follow: one of those that `choose` is given."""
        mask = self._matcher.compute_bitmask()
        self._check()
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        return choose(np.flatnonzero(bits).astype(np.int32))

    def accept(self, token: int) -> None:
        """Goes on with a token that may follow."""
        self._matcher.consume_token(token)
        self._check()

    def close(self) -> None:
        """Nothing to be freed."""

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = str(self._matcher.get_error()).splitlines()[0]
            raise GrammarFault(f"the JSON schema cannot be followed any further: {reason[:200]}")


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, pieces: Sequence[bytes], end: int) -> None:
        self.tokens, self.eos_token_id = pieces, end
        self.bos_token_id, self.special_token_ids = None, [end]

    def __call__(self, text: str) -> list[int]:
        return []  # asked only where tokens are forced


def tokenizer_of(pieces: Sequence[bytes], end: int) -> llguidance.LLTokenizer:
    """Of the bytes of every token, and the token that ends an answer; takes 0.2 s for 32,000 tokens."""
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(pieces, end)))


def _write(schema: Mapping[str, Any]) -> str:
    text = _GRAMMAR + json.dumps({**schema, "x-guidance": _SETTINGS}) + "\n"
    return str(llguidance.LLMatcher.grammar_from_lark(text))
