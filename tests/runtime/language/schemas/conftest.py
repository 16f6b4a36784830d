"""Answers of a JSON schema without a model: tokens come from a small vocabulary, byte by byte or at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.runtime.language.json_grammar import JsonGrammar, tokenizer_of
from edge_llava.runtime.language.json_schema import read_schema, strict_schema

_WORDS = (
    b'{"',
    b'":',
    b'": ',
    b'",',
    b'"}',
    b' "',
    b"true",
    b"null",
    b"  ",
    b"\n ",
    b'", "',
    b"]]",
    b"},",
    b"ab",
    b"10",
)
PIECES = (*(bytes([byte]) for byte in range(256)), *_WORDS, b"")
END = len(PIECES) - 1
_ENDS = {END, *(PIECES.index(end) for end in (b'"', b"}", b"]", b'"}'))}


@pytest.fixture(scope="session")
def grammar_of() -> Callable[[Any], JsonGrammar]:
    """grammar_of(schema) -> its grammar at the beginning of an answer."""
    tokenizer = tokenizer_of(PIECES, END)
    return lambda schema: JsonGrammar(strict_schema(read_schema(schema)), tokenizer)


@pytest.fixture(scope="session")
def accepts(grammar_of: Callable[[Any], JsonGrammar]) -> Callable[[Any, str], bool]:
    """accepts(schema, text) -> whether the text is a whole answer of the schema."""

    def run(schema: Any, text: str) -> bool:
        grammar, allowed = grammar_of(schema), set()

        def look(tokens: Any) -> int:
            allowed.update(tokens.tolist())
            return 0

        for token in (*text.encode(), END):
            allowed.clear()
            grammar.sample(look)
            if token not in allowed:
                return False
            grammar.accept(token)
        return True

    return run


@pytest.fixture(scope="session")
def write(grammar_of: Callable[[Any], JsonGrammar]) -> Callable[..., str | None]:
    """write(schema, seed, n_max=400) -> a random answer; None if it does not end within so many tokens."""

    def run(schema: Any, seed: int, n_max: int = 400) -> str | None:
        draw, grammar, text = random.Random(seed), grammar_of(schema), b""

        def choose(tokens: Any) -> int:
            ends = [token for token in tokens.tolist() if token in _ENDS]
            return int(draw.choice(ends if ends and draw.random() < 0.3 else tokens))

        for _ in range(n_max):
            token = grammar.sample(choose)
            if token == END:
                return text.decode()
            grammar.accept(token)
            text += PIECES[token]
        return None

    return run
