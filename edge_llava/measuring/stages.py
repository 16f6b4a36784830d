"""Times the two engines of a bundle with given settings, on noise: the content does not affect the time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import numpy as np

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.profile import IMAGE_SIZE, DeviceSettings
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.options import DecoderOptions, EngineOptions, engine_options, n_ctx
from edge_llava.runtime.vision.anyres import count_tokens
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_encoder import ImageEncoder

N_TEXT, N_ANSWER = 50, 64  # tokens in a typical turn
_MIN_ROWS, _PROBE_ROWS, _N_TO_DECODE = 32, 16, (4, 32)
_QUICK_S = 0.3  # below this, a single run is too noisy


@dataclass(frozen=True)
class VisionFigures:
    """Seconds for one image: preprocessing and tower, and projector."""

    vision_s: float
    projector_s: float

    @property
    def encode_s(self) -> float:
        """The whole time from the image to its embedding."""
        return self.vision_s + self.projector_s


@dataclass(frozen=True)
class LanguageFigures:
    """Positions per second before the first token, and tokens per second after it."""

    prefill_tps: float
    decode_tps: float


class VisionStage:
    """Tower and projector, reopened only if a setting requires it."""

    def __init__(self, bundle: Bundle, base: EngineOptions) -> None:
        self._bundle, self._base = bundle, base
        self._opened: tuple[tuple[int, bool], ImageEncoder] | None = None
        noise = np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE[::-1], 3), dtype=np.uint8)
        self._image = Image.open(noise)

    def __call__(self, settings: DeviceSettings) -> VisionFigures:
        """The medians of a few runs after a warm-up run."""
        encoder = self._open(settings)
        n_runs = 3 if self._run(encoder).encode_s < _QUICK_S else 1
        runs = [self._run(encoder) for _ in range(n_runs)]
        return VisionFigures(
            statistics.median(run.vision_s for run in runs), statistics.median(run.projector_s for run in runs)
        )

    def close(self) -> None:
        """Frees the engines; safe to call twice."""
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None

    def _open(self, settings: DeviceSettings) -> ImageEncoder:
        key = settings.n_vision_threads, settings.vision_spinning
        if self._opened is None or self._opened[0] != key:
            self.close()
            options = EngineOptions(
                n_vision_threads=settings.n_vision_threads,
                vision_provider=self._base.vision_provider,
                vision_spinning=settings.vision_spinning,
            )
            encoder = ImageEncoder(self._bundle, options)
            self._opened = key, encoder
        return self._opened[1]

    def _run(self, encoder: ImageEncoder) -> VisionFigures:
        embedding = encoder.encode(self._image, "noise")
        return VisionFigures(embedding.vision_s, embedding.projector_s)


class LanguageStage:
    """The language model; its weights are reloaded only if a setting requires it.

    Attributes:
        n_positions: Positions of a typical turn before its answer: image and text.
    """

    def __init__(self, bundle: Bundle, base: EngineOptions, slice_s: float, start: DeviceSettings) -> None:
        """
        Args:
            bundle: The bundle; its digests are not checked here.
            base: Options that are not measured.
            slice_s: About how long prefill and decode may each take; both are shortened to fit.
            start: The settings to find that out with.
        """
        self._bundle, self._base, self._slice_s, self._start = bundle, base, slice_s, start
        self._spec = bundle.manifest.language
        n_positions = n_ctx(self._spec, base.decoder)
        n_turn = count_tokens(IMAGE_SIZE, bundle.manifest.vision) + N_TEXT
        self.n_positions = max(1, min(n_turn, n_positions - N_ANSWER))
        self._n_rows, self._n_to_decode = 0, 0
        self._opened: tuple[DecoderOptions, OneSequence] | None = None
        random = np.random.default_rng(0)
        self._rows = (0.02 * random.standard_normal((self.n_positions, self._spec.n_embd))).astype(np.float32)
        self._tokens: list[int] = random.integers(3, self._spec.n_vocab, N_ANSWER).tolist()

    @property
    def n_rows(self) -> int:
        """Positions that a run prefills. Settings that only matter for more positions need no trial."""
        if not self._n_rows:
            self._calibrate()
        return self._n_rows

    def __call__(self, settings: DeviceSettings) -> LanguageFigures:
        """Measures one run: some rows of an image, then some tokens."""
        n_rows = self.n_rows
        sequence = self._open(settings)
        self._prefill(sequence, min(n_rows, _PROBE_ROWS))  # wakes threads and touches memory
        prefill_s = self._prefill(sequence, n_rows)
        return LanguageFigures(n_rows / prefill_s, self._n_to_decode / self._decode(sequence, self._n_to_decode))

    def close(self) -> None:
        """Frees the model; safe to call twice."""
        if self._opened is not None:
            self._opened[1].decoder.close()
        self._opened = None

    def _calibrate(self) -> None:
        sequence = self._open(self._start)
        n_probe, n_few = min(_PROBE_ROWS, self.n_positions), _N_TO_DECODE[0]
        self._prefill(sequence, n_probe)
        n_fitting = int(self._slice_s / self._prefill(sequence, n_probe) * n_probe)
        self._n_rows = min(max(n_fitting, _MIN_ROWS), self.n_positions)
        n_fitting = int(self._slice_s / self._decode(sequence, n_few) * n_few)
        self._n_to_decode = min(max(n_fitting, n_few), _N_TO_DECODE[1])

    @property
    def _n_ctx(self) -> int:
        return self.n_positions + N_ANSWER

    def _open(self, settings: DeviceSettings) -> OneSequence:
        return self._open_with(replace(engine_options(settings, self._base).decoder, n_ctx=self._n_ctx))

    def _open_with(self, options: DecoderOptions) -> OneSequence:
        if self._opened is not None and self._opened[0] == options:
            return self._opened[1]
        if self._opened is not None and _weights(self._opened[0]) == _weights(options):
            decoder = self._opened[1].decoder
            decoder.reconfigure(options)
        else:
            self.close()
            decoder = Decoder(self._bundle.file("language"), self._spec, options)
        sequence = OneSequence(decoder)
        self._opened = options, sequence
        return sequence

    def _prefill(self, sequence: OneSequence, n_rows: int) -> float:
        """Seconds to prefill `n_rows` positions into an empty cache; the last is a token whose logits are awaited."""
        sequence.truncate(0)
        started = time.perf_counter()
        if n_rows > 1:
            sequence.prefill_rows(self._rows[: n_rows - 1])
        sequence.prefill_tokens(self._tokens[:1])
        sequence.logits()
        return time.perf_counter() - started

    def _decode(self, sequence: OneSequence, n_tokens: int) -> float:
        started = time.perf_counter()
        for token in self._tokens[:n_tokens]:
            sequence.decode(token)
            sequence.logits()
        return time.perf_counter() - started


def _weights(options: DecoderOptions) -> tuple[bool | None, int]:
    """What the weights are loaded with."""
    return options.repack, options.n_gpu_layers
