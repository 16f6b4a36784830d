"""Pictures by seed, and the demo bundle opened anew for a test that asks for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def open_model(home: Path) -> Iterator[Callable[..., Any]]:
    """open_model(bundle directory, **DecoderOptions fields) -> LlavaModel, closed after the test.

    One thread each: the models are tiny, and waiting for each other's threads is what takes time on a busy machine.
    """
    import edge_llava
    from edge_llava.runtime.options import DecoderOptions, EngineOptions

    opened = []

    def run(path: Path, **options: object) -> Any:
        decoder = DecoderOptions(n_threads=1, **options)  # type: ignore[arg-type]
        opened.append(edge_llava.load(path, EngineOptions(decoder=decoder, n_vision_threads=1)))
        return opened[-1]

    yield run
    for model in opened:
        model.close()


@pytest.fixture
def model(open_model: Callable[..., Any], seeded_f32: Path) -> Any:
    """The F32 demo, open."""
    return open_model(seeded_f32)


@pytest.fixture(scope="session")
def ids() -> Callable[..., list[int]]:
    """ids(tokens) -> the ids of an answer that is read to its end."""

    def read(tokens: Any) -> list[int]:
        return [token.id for token in tokens]

    return read


@pytest.fixture(scope="session")
def last_sequence() -> Callable[[Any], Any]:
    """last_sequence(model) -> the sequence in which its last answer was computed."""
    return lambda model: max(model.engine.language.sequences._sequences, key=lambda sequence: sequence.last_used)


@pytest.fixture(scope="session")
def positions(last_sequence: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """positions(model) -> what is in the KV cache of the conversation that was answered last."""
    return lambda model: list(last_sequence(model).positions)


@pytest.fixture
def open_engine(home: Path) -> Iterator[Callable[..., Any]]:
    """open_engine(bundle, decoder={DecoderOptions fields}, **EngineOptions fields).

    Gives a LlavaModel of a bundle, or of its directory, with four places, closed after the test; one thread each, as
    `open_model`.
    """
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import DecoderOptions, EngineOptions

    opened = []

    def run(bundle: Any, decoder: dict[str, Any] | None = None, **fields: Any) -> Any:
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        how = DecoderOptions(**({"n_threads": 1} | (decoder or {})))
        fields = {"parallel": 4, "n_queued": 16, "n_vision_threads": 1} | fields
        opened.append(LlavaModel(bundle, EngineOptions(decoder=how, **fields)))
        return opened[-1]

    yield run
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_engine: Callable[..., Any], seeded_f32: Path) -> Any:
    """The F32 demo, open for four at a time."""
    return open_engine(seeded_f32)


class Asked:
    """An answer of an engine, and its tokens as they came."""

    def __init__(self, engine: Any, messages: Any, options: Any, on_token: Callable[[Any], None] | None) -> None:
        self.tokens: list[Any] = []
        self._on_token = on_token
        self.answer = engine.submit(messages, options, self._take)

    def _take(self, token: Any) -> None:
        self.tokens.append(token)
        if self._on_token is not None:
            self._on_token(token)

    def wait(self) -> Asked:
        """Returns when the answer is over."""
        assert self.answer.wait(60), "an answer never ended"
        return self

    @property
    def ids(self) -> list[int | None]:
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def reason(self) -> str | None:
        return self.tokens[-1].finish_reason if self.tokens else None


@pytest.fixture(scope="session")
def ask() -> Callable[..., Asked]:
    """ask(engine, question or messages, options, *images, on_token=None) -> Asked, not waited for."""
    from edge_llava.runtime.dialogue.messages import Message

    def run(engine: Any, said: Any, options: Any, *images: Any, on_token: Callable[[Any], None] | None = None) -> Asked:
        messages = [Message("user", said, images)] if isinstance(said, str) else said
        return Asked(engine, messages, options, on_token)

    return run


@pytest.fixture(scope="module")
def accepts(seeded_q4: Path) -> Iterator[Callable[[str, str], bool]]:
    """accepts(grammar, text) -> whether llama.cpp takes the text, and would end an answer after it."""
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(seeded_q4 / "language.gguf").encode(), params)
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    piece = ctypes.create_string_buffer(64)
    byte_tokens: dict[int, int] = {}
    for token in range(llama_cpp.llama_vocab_n_tokens(vocabulary)):
        if llama_cpp.llama_token_to_piece(vocabulary, token, piece, 64, 0, False) == 1:
            byte_tokens.setdefault(piece.raw[0], token)
    end = llama_cpp.llama_vocab_eos(vocabulary)

    def takes(grammar: Any, token: int) -> bool:
        candidate = (llama_cpp.llama_token_data * 1)(llama_cpp.llama_token_data(token, 1.0, 0.0))
        candidates = llama_cpp.llama_token_data_array(candidate, 1, -1, False)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(candidates))
        return bool(candidate[0].logit > float("-inf"))

    def run(text: str, asked: str) -> bool:
        grammar = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        assert grammar, text
        try:
            for byte in asked.encode():
                if not takes(grammar, byte_tokens[byte]):
                    return False
                llama_cpp.llama_sampler_accept(grammar, byte_tokens[byte])
            return takes(grammar, end)
        finally:
            llama_cpp.llama_sampler_free(grammar)

    yield run
    llama_cpp.llama_model_free(model)
