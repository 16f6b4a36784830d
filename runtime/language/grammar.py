"""A GBNF grammar, as far as an answer has come: which tokens may follow."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.runtime.lifetime.native import freed_with

# llama.cpp follows every way to read an answer; where ways double with each token, no answer would ever end.
_MAX_STEP_S = 1.0


class GrammarFault(BackendError):
    """A grammar that does not compile, that allows nothing more, or that can be read in too many ways."""


class Grammar:
    """Close it after the answer. For one thread at a time."""

    def __init__(self, text: str, vocabulary: Any) -> None:
        """
        Args:
            text: GBNF with a rule named "root".
            vocabulary: llama.cpp's vocabulary handle.

        Raises:
            GrammarFault: If it does not compile.
        """
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not self._sampler:
            raise GrammarFault("the grammar does not compile. It must be GBNF with a rule named 'root'.")
        self._free = freed_with(self, llama_cpp.llama_sampler_free, self._sampler)
        self._one = (llama_cpp.llama_token_data * 1)()

    def allows(self, token: int) -> bool:
        """Whether a token may follow.

        Raises:
            GrammarFault: If finding out takes too long.
        """
        self._one[0] = llama_cpp.llama_token_data(token, 0.0, 0.0)
        self._apply(llama_cpp.llama_token_data_array(self._one, 1, -1, False))
        return bool(self._one[0].logit == 0.0)

    def check(self, token: int) -> None:
        """
        Raises:
            GrammarFault: If a token may not follow: accepting it would end the process.
        """
        if not self.allows(token):
            raise GrammarFault("the model's chances are no numbers, so that no token could be drawn.")

    def mask(self, candidates: Any, logits: NDArray[np.float32]) -> None:
        """Gives every candidate that may not follow a logit of minus infinity.

        Args:
            candidates: A llama_token_data_array of the whole vocabulary.
            logits: float32 view of theirs.

        Raises:
            GrammarFault: If none may, or finding out takes too long.
        """
        self._apply(candidates)
        if np.isneginf(logits).all():  # llama.cpp would draw one all the same, and end the process
            raise GrammarFault("the grammar allows no token that this model has.")

    def accept(self, token: int) -> None:
        """Goes on with a token that may follow.

        Raises:
            GrammarFault: If that takes too long.
        """
        with _limited():
            llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Frees it; safe to call twice."""
        self._free()
        self._sampler = None

    def _apply(self, candidates: Any) -> None:
        with _limited():
            llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(candidates))


@contextmanager
def _limited() -> Iterator[None]:
    """By this thread's own time: a busy machine is nobody's fault."""
    started = time.thread_time()
    yield
    if time.thread_time() - started > _MAX_STEP_S:
        raise GrammarFault("the grammar can be read in too many ways at once. Make its choices differ sooner.")
