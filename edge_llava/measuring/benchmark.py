"""The benchmark of a bundle: how long the first token takes, cold, loaded and again, and how fast each stage is."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.measuring.spread import Spread, summarize
from edge_llava.runtime.answer import Timings
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import EngineOptions, SamplingOptions
from edge_llava.runtime.session import Session
from edge_llava.runtime.vision.anyres import count_tokens
from edge_llava.runtime.vision.images.opening import open_picture
from edge_llava.runtime.vision.visual_tokens import check_visual_tokens

FIGURES = (
    "vision_s", "prefill_tps", "decode_tps", "ttft_cold_s", "ttft_loaded_s", "ttft_second_question_s",
    "ttft_restored_s", "peak_rss_bytes",
)  # fmt: skip
_FIRST, _SECOND = "Describe the picture.", "What else is there?"
_MARK_PX = 16
_N_DECODE = 64
_ONE_TOKEN = SamplingOptions(temperature=0, max_new_tokens=1)
_NEVER = threading.Event()


@dataclass(frozen=True)
class Benchmark:
    """Figures of one run of the benchmark.

    Attributes:
        spreads: By name: those of FIGURES, and projector_s. Seconds `_s`, tokens or positions per second `_tps`.
        n_image_tokens: Context positions of the picture.
    """

    spreads: dict[str, Spread]
    n_image_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: medians by name, and under "spread" median, min and max of each."""
        medians: dict[str, Any] = {name: self.spreads[name].median for name in FIGURES}
        return medians | {"spread": {name: dataclasses.asdict(spread) for name, spread in self.spreads.items()}}


def run_benchmark(
    bundle: Bundle,
    image: Path,
    options: EngineOptions,
    cold_arguments: Sequence[str],
    n_runs: int,
    *,
    progress: ProgressCallback = silent,
) -> Benchmark:
    """Measures everything `n_runs` times. Every run has a picture of its own, so that no memory of one flatters it.

    Args:
        bundle: An opened bundle; its digests are compared at first use.
        image: The picture that all are made from.
        options: Of the loaded runs.
        cold_arguments: Options of `edge-llava chat` that amount to `options`.
        n_runs: At least 1.
        progress: Told the runs.

    Raises:
        BundleError: If pictures cannot be reduced to `options.visual_tokens`.
        ImageError: If the picture cannot be read.
        BackendError: If a process of its own failed; says what it said.
    """
    check_visual_tokens(options.visual_tokens, bundle.manifest.vision)
    picture = open_picture(image, alpha=options.alpha)
    bundle.verify_digests(trust_earlier=True, progress=progress)
    samples: dict[str, list[float]] = {name: [] for name in (*FIGURES, "projector_s")}
    with tempfile.TemporaryDirectory() as directory:
        for run in range(n_runs):
            path = Path(directory) / f"{run}.jpg"
            mark_picture(picture, run).save(path, quality=95)
            arguments = [*cold_arguments, "-m", str(bundle.path), str(path)]
            seconds, peak = _answer_cold([*arguments, "--no-cache"], directory)
            samples["ttft_cold_s"].append(seconds)
            samples["peak_rss_bytes"].append(peak)
            _answer_cold(arguments, directory)  # keeps what it computed
            samples["ttft_restored_s"].append(_answer_cold(arguments, directory)[0])
            progress(ProgressEvent("cold processes", run + 1, n_runs, "items"))
    with LlavaModel(bundle, options) as model:
        n_image_tokens = count_tokens(picture.size, bundle.manifest.vision, options.visual_tokens)
        _ask(model.session(_ONE_TOKEN), _FIRST, mark_picture(picture, n_runs))  # warms up
        for run in range(n_runs):
            for name, value in _answer_loaded(model, mark_picture(picture, n_runs + 1 + run)):
                samples[name].append(value)
            progress(ProgressEvent("loaded", run + 1, n_runs, "items"))
    return Benchmark({name: summarize(values) for name, values in samples.items()}, n_image_tokens)


def mark_picture(picture: Image.Image, number: int) -> Image.Image:
    """The picture with a small square of noise, another one for every number: to any cache, another picture.

    It lies in the middle, which no tower crops.
    """
    marked = picture.copy()
    noise = np.random.default_rng(number).integers(0, 256, (_MARK_PX, _MARK_PX, 3), dtype=np.uint8)
    marked.paste(Image.fromarray(noise), ((marked.width - _MARK_PX) // 2, (marked.height - _MARK_PX) // 2))
    return marked


def _answer_cold(arguments: list[str], cache: str) -> tuple[float, int]:
    """Seconds from the start of a process to what it prints, an answer of one token; its peak memory in bytes."""
    environment = os.environ | {"EDGE_LLAVA_CACHE": cache}
    command = [sys.executable, "-m", "edge_llava.cli", "chat", "-p", _FIRST, "-n", "1", "--temp", "0", "--json"]
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment
        ) as chat,
    ):
        assert chat.stdout is not None
        first = chat.stdout.read(1)
        seconds = time.perf_counter() - started
        answer = first + chat.stdout.read()
        if chat.wait():
            said.seek(0)
            raise BackendError(f"a process of its own failed: {said.read().decode('utf-8', 'replace').strip()}")
    return seconds, int(json.loads(answer)["timings"]["peak_rss_bytes"])


def _answer_loaded(model: LlavaModel, picture: Image.Image) -> Iterator[tuple[str, float]]:
    """A new picture, and a second question about it."""
    session = model.session(_ONE_TOKEN)
    first = _ask(session, _FIRST, picture)
    yield "ttft_loaded_s", first.ttft_s
    yield "vision_s", first.vision_s
    yield "projector_s", first.projector_s
    yield "prefill_tps", first.prefill_tokens / first.prefill_s
    yield "decode_tps", _decode_rate(model)
    yield "ttft_second_question_s", _ask(session, _SECOND).ttft_s


def _ask(session: Session, question: str, picture: Image.Image | None = None) -> Timings:
    list(session.ask(question, image=picture))
    assert session.timings is not None
    return session.timings


def _decode_rate(model: LlavaModel) -> float:
    """Tokens per second after the prompt that was computed last; the tokens are noise, so that no end stops them."""
    decoder = model.decoder
    n_prompt = decoder.n_past
    n_tokens = min(_N_DECODE, decoder.n_ctx - n_prompt)
    tokens = np.random.default_rng(0).integers(3, model.manifest.language.n_vocab, n_tokens).tolist()
    model.turns.acquire(_NEVER)
    try:
        started = time.perf_counter()
        for token in tokens:
            decoder.decode(token)
            decoder.logits()
        seconds = time.perf_counter() - started
        decoder.truncate(n_prompt)
    finally:
        model.turns.release()
    return n_tokens / seconds
