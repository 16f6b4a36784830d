"""Asks a bundle a benchmark's questions: greedily, each in a conversation of its own, each picture encoded once."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.errors import ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Item
from edge_llava.evaluation.run import Said
from edge_llava.home.files import digest_file
from edge_llava.runtime.answer import Token
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel

_OF_1_5 = ("llava_v1", "vicuna_v1")  # which manifests of LLaVA-1.5 may name
_KEPT = 2  # pictures that stay encoded: with several questions at a time, those about two are asked


@dataclass(frozen=True)
class _Picture:
    """An encoded image, and the digest of its file."""

    embedding: ImageEmbedding
    sha256: str


class BundleAsker:
    """An instance is the `ask` argument of `BenchmarkRun.answer`. Thread-safe.

    Attributes:
        n_encoded: Pictures that were encoded so far.
    """

    def __init__(self, model: LlavaModel, find_image: Callable[[str], Path | bytes], max_tokens: int) -> None:
        """
        Args:
            model: Opened.
            find_image: Finds an image by the name that items have.
            max_tokens: Of an answer.
        """
        self._model, self._find_image = model, find_image
        self._sampling = SamplingOptions(temperature=0, max_new_tokens=max_tokens)
        self._encoding, self._changing = threading.Lock(), threading.Lock()
        self._pictures: dict[str, _Picture] = {}
        self._running: set[Answer] = set()
        self._is_cancelled = False
        self.n_encoded = 0

    def __call__(self, item: Item) -> Said:
        """Asks; the picture of the question before stays encoded.

        Raises:
            ImageError: If the picture cannot be read.
            ContextOverflow: If the question does not fit.
            EdgeLlavaError: If this was cancelled, or the model was closed.
        """
        started = time.perf_counter()
        picture = None if item.image is None else self._find(item.image)
        text = f"{item.text}\n" if item.second is not None and picture is not None else item.text
        places = (len(text),) if text != item.text else ()
        question = Message("user", text, () if picture is None else (picture.embedding,), places)
        said, n_tokens, reason = self._say([question], self._sampling, item)
        if item.second is not None:
            begun = Message("assistant", f"{said}{item.second.lead}")
            limited = replace(self._sampling, max_new_tokens=item.second.max_tokens)
            is_cut_off = reason == "length"
            try:
                letter, n_more, reason = self._say([question, begun], limited, item)
            except ContextOverflow:  # the reasoning took all there was
                letter, n_more, is_cut_off = "", 0, True
            said, n_tokens = f"{said}\n{item.second.between}{letter}", n_tokens + n_more
            reason = "length" if is_cut_off else reason
        sha256 = None if picture is None else picture.sha256
        return Said(said, n_tokens, reason, time.perf_counter() - started, sha256)

    def cancel(self) -> None:
        """Ends the answers that run, and those that are still asked for."""
        with self._changing:
            self._is_cancelled = True
            running = tuple(self._running)
        for answer in running:
            answer.cancel()

    def _say(self, messages: list[Message], sampling: SamplingOptions, item: Item) -> tuple[str, int, str]:
        """The answer's text, stripped; its tokens; and why it ended."""
        if item.second is not None:
            sampling = replace(sampling, stop=(item.second.stop,))
        tokens: list[Token] = []
        answer = self._model.submit(messages, sampling, tokens.append, alone=True)
        with self._changing:
            self._running.add(answer)
            is_cancelled = self._is_cancelled
        if is_cancelled:
            answer.cancel()
        try:
            answer.wait()
        finally:
            with self._changing:
                self._running.discard(answer)
        if answer.error is not None:
            raise answer.error
        if answer.finish_reason == "cancelled":
            raise EdgeLlavaError("the question was cancelled.")
        return "".join(token.text for token in tokens).strip(), answer.n_tokens, str(answer.finish_reason)

    def _find(self, name: str) -> _Picture:
        with self._encoding:
            found = self._pictures.get(name)
            if found is None:
                source = self._find_image(name)
                # published scores were made without looking at EXIF's orientation
                embedding = self._model.embed_image(source, apply_exif=False)
                self._pictures[name] = found = _Picture(embedding, _digest(source))
                self.n_encoded += 1
                for old in list(self._pictures)[:-_KEPT]:
                    del self._pictures[old]
            return found


def _digest(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        return digest_file(source)
    except OSError as error:
        raise ImageError(f"{source} cannot be read: {error.strerror}.") from error


def with_template(bundle: Bundle, benchmark: Benchmark, name: str) -> Bundle:
    """The bundle with the conversation template that a benchmark is asked in.

    Args:
        bundle: Opened.
        benchmark: What is asked.
        name: One of `TEMPLATES`; "auto" takes vicuna_v1, with which LLaVA-1.5 was evaluated, in the place of llava_v1,
            and leaves others, and those of benchmarks that are older than LLaVA-1.5.
    """
    language = bundle.manifest.language
    spec = language.template
    if name == "auto":
        name = "vicuna_v1" if benchmark.is_of_1_5 and spec.name in _OF_1_5 else spec.name
    if name != spec.name:
        specials = {"</s>": language.eos, "<s>": language.bos} if language.tokenizer.model == "llama" else {}
        spec = describe_template(TEMPLATES[name], specials)
    if any(item.second is not None for item in benchmark.items):
        spec = replace(spec, image_after=())  # the image stands at the end, with nothing behind it
    language = dataclasses.replace(language, template=spec)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, language=language))
