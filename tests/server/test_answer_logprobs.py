"""Log probabilities come with the text they belong to; what ends the answer has none."""

from __future__ import annotations

import json
import math

import pytest

from edge_llava.runtime.answer import FinishReason, Token, TokenLogprob
from edge_llava.server.openai.answer_logprobs import AnswerLogprobs


def token(piece: bytes, text: str, reason: FinishReason | None = None, logprob: float = -1.0) -> Token:
    return Token(1, text, reason, piece, logprob, (TokenLogprob(2, b"x", logprob),))


def push(*tokens: Token) -> list[list[str]]:
    logprobs = AnswerLogprobs()
    return [[entry["token"] for entry in logprobs.push(token)] for token in tokens]


def test_a_token_that_is_held_back_comes_with_its_text() -> None:
    assert push(token(b" a", "a"), token(b"#", ""), token(b"b", "#b")) == [[" a"], [], ["#", "b"]]


def test_a_stop_text_has_no_entries() -> None:
    assert push(token(b"a", "a"), token(b"#", ""), token(b"##", "", "stop")) == [["a"], [], []]


def test_the_end_of_the_sequence_has_no_entry() -> None:
    assert push(token(b"a", "a"), token(b"#", ""), token(b"", "#", "stop")) == [["a"], [], ["#"]]
    assert push(token(b"a", "a"), token(b"", "", "stop")) == [["a"], []]


def test_the_last_token_of_an_answer_that_was_cut_has_an_entry() -> None:
    assert push(token(b"a", "a"), token(b"\xe2", "\ufffd", "length")) == [["a"], ["\ufffd"]]
    assert push(token(b"a", "a"), token(b"b", "", "length")) == [["a"], ["b"]]


@pytest.mark.parametrize("logprob", [-math.inf, math.nan, -1e6])
def test_every_entry_is_json(logprob: float) -> None:
    (entry,) = AnswerLogprobs().push(token(b"a", "a", logprob=logprob))
    assert json.loads(json.dumps(entry, allow_nan=False)) == {
        "token": "a",
        "logprob": -9999.0,
        "bytes": [97],
        "top_logprobs": [{"token": "x", "logprob": -9999.0, "bytes": [120]}],
    }


def test_without_probabilities_there_are_no_entries() -> None:
    assert AnswerLogprobs().push(Token(1, "a")) == []
