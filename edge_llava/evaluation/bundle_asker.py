"""Asks a bundle a benchmark's questions: greedily, each in a conversation of its own, each picture encoded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.evaluation.benchmarks.benchmark import Item
from edge_llava.evaluation.run import Said
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel

_OF_1_5 = ("llava_v1", "vicuna_v1")  # which manifests of LLaVA-1.5 may name


class BundleAsker:
    """An instance is the `ask` argument of `BenchmarkRun.answer`.

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
        self._name: str | None = None
        self._image: ImageEmbedding | None = None
        self.n_encoded = 0

    def __call__(self, item: Item) -> Said:
        """Asks; the picture of the question before stays encoded.

        Raises:
            ImageError: If the picture cannot be read.
            ContextOverflow: If the question does not fit.
        """
        session = self._model.session(self._sampling)
        tokens = list(session.ask(item.text, image=self._find(item.image)))
        n_tokens = session.timings.decode_tokens if session.timings is not None else len(tokens)
        return Said("".join(token.text for token in tokens).strip(), n_tokens, str(tokens[-1].finish_reason))

    def _find(self, name: str | None) -> ImageEmbedding | None:
        if name is None:
            return None
        if name != self._name:
            # published scores were made without looking at EXIF's orientation
            self._image = self._model.embed_image(self._find_image(name), apply_exif=False)
            self._name = name
            self.n_encoded += 1
        return self._image


def with_template(bundle: Bundle, name: str) -> Bundle:
    """The bundle with another conversation template.

    Args:
        bundle: Opened.
        name: One of `TEMPLATES`; "auto" takes vicuna_v1, with which LLaVA-1.5 was evaluated, in the place of llava_v1,
            and leaves others.
    """
    language = bundle.manifest.language
    if name == "auto":
        if language.template.name not in _OF_1_5:
            return bundle
        name = "vicuna_v1"
    if name == language.template.name:
        return bundle
    specials = {"</s>": language.eos, "<s>": language.bos} if language.tokenizer.model == "llama" else {}
    template = describe_template(TEMPLATES[name], specials)
    language = dataclasses.replace(language, template=template)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, language=language))
