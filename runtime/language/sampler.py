"""Choosing the next token: the options of an answer, as a chain of llama.cpp's samplers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.runtime.language.grammar import CANDIDATE, Grammar, apply
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.lifetime.native import freed_with
from edge_llava.runtime.options import SamplingOptions

if TYPE_CHECKING:
    from edge_llava.runtime.language.json_grammar import JsonGrammar

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: llama.cpp draws one
_REPEAT_WINDOW = 64
_WHOLE_ANSWER = 65_536  # tokens; no context is longer
_COLDEST = 1e-4  # dividing by less says nothing else, and overflows in the end


@dataclass(frozen=True)
class TokenRanking:
    """How likely a token was among all others: the log-softmax of the model's logits.

    Attributes:
        logprob: The natural logarithm of the token's probability.
        top: (id, logprob) of the likeliest tokens, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """A llama.cpp sampler chain over the tokens that a grammar or JSON schema allows; close it after the answer."""

    def __init__(self, options: SamplingOptions, language: LanguageModel) -> None:
        """
        Raises:
            BackendError: If the grammar does not compile.
            ValueError: If `logit_bias` names a token that the vocabulary does not contain.
        """
        self._n_top, self._n_vocab = options.logprobs, language.spec.n_vocab
        unknown = [token for token, _ in options.logit_bias if not 0 <= token < self._n_vocab]
        if unknown:
            raise ValueError(f"logit_bias names token {unknown[0]}; the model's tokens are 0 to {self._n_vocab - 1}")
        self._grammar = _make_grammar(options, language)
        self._candidates = np.empty(self._n_vocab if self._grammar else 0, CANDIDATE)
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._free_chain = freed_with(self, llama_cpp.llama_sampler_free, self._chain)
        for sampler in _samplers(options, self._n_vocab):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: Any, index: int = -1) -> int:
        """Samples a token from the logits of a position of the last batch, -1 the last of it, and remembers it.

        Raises:
            BackendError: If the grammar allows no token, or takes too long to say; if the logits are not numbers.
        """
        logits = self._logits(context, index)
        # what damaged weights, or a damaged cache, give: llama.cpp would sample some token all the same
        if not np.isfinite(logits[logits.argmax()]):  # argmax finds the first NaN, where there is one
            raise BackendError(
                "the model returned NaN logits; no token can be sampled. Check the bundle with 'edge-llava verify', "
                "and empty the cache with 'edge-llava cache clear'."
            )
        if self._grammar is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, context, index))
        token = self._grammar.sample(lambda tokens: self._choose(logits, tokens))
        llama_cpp.llama_sampler_accept(self._chain, token)
        self._grammar.accept(token)
        return token

    def rank(self, context: Any, token: int, index: int = -1) -> TokenRanking | None:
        """How likely a token was at a position of the last batch, if the options ask for it; else None."""
        if self._n_top is None:
            return None
        logits = self._logits(context, index).astype(np.float64)
        shifted = logits - logits.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        n_top = min(self._n_top, len(logprobs))
        likeliest = np.argpartition(-logprobs, n_top - 1)[:n_top].tolist() if n_top else []
        likeliest.sort(key=lambda other: (-logprobs[other], other))
        return TokenRanking(float(logprobs[token]), tuple((other, float(logprobs[other])) for other in likeliest))

    def remember(self, tokens: Sequence[int]) -> None:
        """Lets penalties count tokens that the answer begins with, and that were not sampled here."""
        for token in tokens:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Frees the chain; safe to call twice."""
        self._free_chain()
        self._chain = None
        if self._grammar is not None:
            self._grammar.close()

    def _choose(self, logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> int:
        """Samples one of these tokens, and remembers nothing."""
        table = self._candidates[: len(tokens)]
        table["id"], table["logit"] = tokens, logits[tokens]
        candidates = apply(self._chain, table)
        return int(candidates.data[candidates.selected].id)

    def _logits(self, context: Any, index: int) -> NDArray[np.float32]:
        """llama.cpp's own, float32 (V,); samplers change a copy of them."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, index), (self._n_vocab,))


def _samplers(options: SamplingOptions, n_vocab: int) -> Iterator[Any]:
    """Biases first, then penalties, which is llama.cpp's own order."""
    if options.logit_bias:
        biases = (llama_cpp.llama_logit_bias * len(options.logit_bias))(*options.logit_bias)
        yield llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), biases)
    repeat, frequency, presence = options.repeat_penalty, options.frequency_penalty, options.presence_penalty
    if repeat != 1:
        yield llama_cpp.llama_sampler_init_penalties(n_vocab, _REPEAT_WINDOW, repeat, 0.0, 0.0)
    if frequency or presence:
        window = min(options.max_new_tokens, _WHOLE_ANSWER)
        yield llama_cpp.llama_sampler_init_penalties(n_vocab, window, 1.0, frequency, presence)
    if options.temperature < _COLDEST:
        yield llama_cpp.llama_sampler_init_greedy()
        return
    if options.top_k:
        yield llama_cpp.llama_sampler_init_top_k(options.top_k)
    if options.top_p < 1:
        yield llama_cpp.llama_sampler_init_top_p(options.top_p, 1)
    if options.min_p:
        yield llama_cpp.llama_sampler_init_min_p(options.min_p, 1)
    yield llama_cpp.llama_sampler_init_temp(options.temperature)
    yield llama_cpp.llama_sampler_init_dist(_RANDOM_SEED if options.seed is None else options.seed)


def _make_grammar(options: SamplingOptions, language: LanguageModel) -> Grammar | JsonGrammar | None:
    if options.json_schema is not None:
        from edge_llava.runtime.language.json_grammar import JsonGrammar
        from edge_llava.runtime.language.json_schema import strict_schema

        return JsonGrammar(strict_schema(str(options.json_schema)), language.json_tokenizer)
    return None if options.grammar is None else Grammar(options.grammar, language.vocabulary)
