"""A GBNF grammar, as far as an answer has come: which tokens may follow. llama.cpp enforces it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.runtime.lifetime.native import freed_with

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
# llama.cpp follows every way to read an answer; where ways double with each token, no answer would ever end.
_MAX_STEP_S = 1.0


class GrammarFault(BackendError):
    """A grammar or JSON schema that does not compile, that allows nothing more, or that takes too long."""


class Grammar:
    """Close it after the answer. For one thread at a time."""

    def __init__(self, text: str, vocabulary: Any) -> None:
        """Of GBNF with a rule named "root", and llama.cpp's vocabulary handle.

        Raises:
            GrammarFault: If it does not compile.
        """
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not self._sampler:
            raise GrammarFault("the grammar does not compile. It must be GBNF with a rule named 'root'.")
        self._free = freed_with(self, llama_cpp.llama_sampler_free, self._sampler)
        self._every = np.arange(llama_cpp.llama_vocab_n_tokens(vocabulary), dtype=np.int32)
        self._table = np.zeros(len(self._every), CANDIDATE)

    def sample(self, choose: Callable[[NDArray[np.int32]], int]) -> int:
        """A token that may follow: one of those that `choose` is given.

        Raises:
            GrammarFault: If none may follow, or finding out takes too long.
        """
        # Asking about one token is a hundred times faster than about all, and the chances stay the same: where it may
        # not follow, another is sampled among those that may.
        token = choose(self._every)
        if len(self._filter(np.array([token], np.int32))):
            return token
        allowed = self._filter(self._every)
        if not len(allowed):
            raise GrammarFault("the grammar allows no token that this model has.")
        return choose(allowed)

    def accept(self, token: int) -> None:
        """Goes on with a token that may follow; llama.cpp would end the process with any other.

        Raises:
            GrammarFault: If that takes too long.
        """
        with _limited():
            llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Frees it; safe to call twice."""
        self._free()
        self._sampler = None

    def _filter(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        table = self._table[: len(tokens)]
        table["id"], table["logit"] = tokens, 0.0
        with _limited():
            apply(self._sampler, table)
        is_allowed: NDArray[np.bool_] = table["logit"] == 0.0
        return tokens[is_allowed]


def apply(sampler: Any, table: NDArray[np.void]) -> Any:
    """Lets a sampler of llama.cpp's change a table of `CANDIDATE`; gives llama.cpp's view of it."""
    data = table.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    candidates = llama_cpp.llama_token_data_array(data, len(table), -1, False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
    return candidates


@contextmanager
def _limited() -> Iterator[None]:
    """By this thread's own time: other work on the machine does not count."""
    started = time.thread_time()
    yield
    if time.thread_time() - started > _MAX_STEP_S:
        raise GrammarFault("the grammar can be read in too many ways at once. Make its choices differ sooner.")
