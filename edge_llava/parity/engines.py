"""Compares a bundle's engines with reference numbers, stage by stage. Each stage is fed the reference's own input."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import StageParity
from edge_llava.bundle.row_cosines import row_cosines
from edge_llava.bundle.vision_file import check_vision_file
from edge_llava.device.thread_count import ThreadCount
from edge_llava.device.threads import usable_threads
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.runtime.vision.device_graph import projector_device
from edge_llava.runtime.vision.encoder import VisionEncoder
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_encoder import ImageEncoder
from edge_llava.runtime.vision.preprocess import pixel_values
from edge_llava.runtime.vision.projector import Projector


@dataclass(frozen=True, eq=False)
class GreedyRun:
    """Greedy tokens of a language model, and the logits (T, V) that they were chosen from."""

    tokens: list[int]
    logits: NDArray[np.float32]


# On the CPU, and as llama.cpp computes without rearranging: figures that do not depend on the device that converts.
CONVERTING = EngineOptions(DecoderOptions(n_gpu_layers=0, repack=False), vision_provider="cpu")


class BundleEngines:
    """Runs each stage of a bundle on its own, opening one engine at a time. Digests are not checked here."""

    def __init__(self, bundle: Bundle, options: EngineOptions = CONVERTING) -> None:
        """With `options`, of which the context's size is left out; as `convert` compares without."""
        self._bundle, self.options = bundle, options

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes pixel values (T, 3, S, S) of an image uint8 (H, W, 3)."""
        return pixel_values(PIL.Image.fromarray(image), self._bundle.manifest.vision)

    def features(self, pixels: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Computes patch features (T, P, D) for each pixel values (T, 3, S, S)."""
        check_vision_file(self._bundle)
        encoder = VisionEncoder(self._bundle.file("vision"), self._bundle.manifest.vision, self.options)
        try:
            return [np.concatenate([encoder(square[None]) for square in values]) for values in pixels]
        finally:
            encoder.close()

    def rows(self, features: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Computes the projector's rows (..., P, E) for each patch features (..., P, D)."""
        threads = ThreadCount(usable_threads(self.options.n_vision_threads), adapts=False)
        device = projector_device(self.options.decoder)
        projector = Projector(self._bundle.file("projector"), self._bundle.manifest.projector, threads, device=device)
        try:
            flat = [projector(values.reshape(-1, values.shape[-1])) for values in features]
            return [rows.reshape(*values.shape[:-1], -1) for rows, values in zip(flat, features, strict=True)]
        finally:
            projector.close()

    def embedding(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes the embedding (N, E) of an image uint8 (H, W, 3) by the whole bundle."""
        with closing(ImageEncoder(self._bundle, self.options)) as encoder:
            return encoder.encode(Image.open(image), "parity").data

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenizes texts, each on its own and without BOS."""
        decoder = self._decoder(n_ctx=32)
        try:
            return [decoder.tokenize(text, add_bos=False) for text in texts]
        finally:
            decoder.close()

    def tokenize_prompt(self, before: str, after: str) -> tuple[list[int], list[int]]:
        """Tokenizes the texts on each side of an image, starting with BOS where the model has one."""
        first, second = self.tokenize([before, after])
        language = self._bundle.manifest.language
        return [*([language.bos] if language.tokenizer.adds_bos else []), *first], second

    def decode_greedily(
        self, before: list[int], image_rows: NDArray[np.float32], after: list[int], n_tokens: int
    ) -> GreedyRun:
        """Decodes greedily after a prompt with an image of rows (R, E); end tokens are not treated specially."""
        decoder = self._decoder(n_ctx=len(before) + len(image_rows) + len(after) + n_tokens)
        try:
            sequence = OneSequence(decoder)
            sequence.prefill_tokens(before)
            sequence.prefill_rows(image_rows)
            sequence.prefill_tokens(after)
            tokens, logits = [], []
            while True:
                logits.append(sequence.logits())
                tokens.append(int(logits[-1].argmax()))
                if len(tokens) == n_tokens:
                    return GreedyRun(tokens, np.stack(logits))
                sequence.decode(tokens[-1])
        finally:
            decoder.close()

    def _decoder(self, n_ctx: int) -> Decoder:
        bundle = self._bundle
        options = replace(self.options.decoder, n_ctx=n_ctx)
        return Decoder(bundle.file("language"), bundle.manifest.language, options)


def compare_rows(
    ours: NDArray[np.float32], reference: NDArray[np.float32], tokens_equal: tuple[int, int] | None = None
) -> StageParity:
    """Computes cosine per row and largest difference of two arrays (..., K) of the same shape."""
    cosines, largest = row_cosines(ours, reference), np.abs(ours.astype(np.float64) - reference).max()
    equal, total = tokens_equal if tokens_equal is not None else (None, None)
    return StageParity(float(cosines.mean()), float(cosines.min()), float(largest), equal, total)
