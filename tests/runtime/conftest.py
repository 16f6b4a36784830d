"""Pictures by seed, and the demo bundle opened anew for a test that asks for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_llava.bundle.vision_spec import VisionSpec


@pytest.fixture(scope="session")
def noise() -> Callable[..., NDArray[np.uint8]]:
    """noise(width, height, seed=0) -> uint8 (height, width, 3); every pixel differs from its neighbours."""

    def make(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def clip_spec() -> Callable[..., VisionSpec]:
    """clip_spec(aspect, image_size=336, merge="flat", pinpoints=()) -> the spec of a released tower."""

    def make(
        aspect: str, image_size: int = 336, merge: str = "flat", pinpoints: tuple[tuple[int, int], ...] = ()
    ) -> VisionSpec:
        return VisionSpec(
            image_size=image_size,
            patch_size=14,
            hidden_size=1024,
            feature_layer=-2,
            drop_cls=True,
            image_mean=(0.48145466, 0.4578275, 0.40821073),
            image_std=(0.26862954, 0.26130258, 0.27577711),
            aspect=aspect,
            grid_pinpoints=pinpoints,
            merge=merge,
            has_newline=merge.startswith("spatial_unpad"),
            precision="fp32",
        )

    return make


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


@pytest.fixture
def open_engine(home: Path) -> Iterator[Callable[..., Any]]:
    """open_engine(bundle, decoder={DecoderOptions fields}, engines={EngineOptions fields}, **BatchEngine arguments).

    Gives a BatchEngine of a bundle, or of its directory, closed after the test; one thread each, as `open_model`.
    """
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.engine.engine import BatchEngine
    from edge_llava.runtime.options import DecoderOptions, EngineOptions

    opened = []

    def run(
        bundle: Any, decoder: dict[str, Any] | None = None, engines: dict[str, Any] | None = None, **arguments: Any
    ) -> Any:
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        how = DecoderOptions(**({"n_threads": 1} | (decoder or {})))
        options = EngineOptions(decoder=how, n_vision_threads=1, **(engines or {}))
        opened.append(BatchEngine(bundle, options, **arguments))
        return opened[-1]

    yield run
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_engine: Callable[..., Any], seeded_f32: Path) -> Any:
    """The F32 demo, open for four at a time."""
    return open_engine(seeded_f32)


class Asked:
    """An answer of a batch engine, and its tokens as they came."""

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
