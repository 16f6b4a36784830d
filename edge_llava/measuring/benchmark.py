"""Benchmarks a bundle: the time to the first token, cold, loaded and repeated, and the speed of each stage."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError
from edge_llava.home.image_files.opening import open_image
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.measuring.spread import Spread, summarize
from edge_llava.runtime.answer import Timings
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import EngineOptions, SamplingOptions
from edge_llava.runtime.session import Session
from edge_llava.runtime.vision.anyres import count_tokens
from edge_llava.runtime.vision.forms import image_forms

FIGURES = (
    "vision_s", "prefill_tps", "decode_tps", "ttft_cold_s", "ttft_loaded_s", "ttft_second_question_s",
    "ttft_restored_s", "peak_rss_bytes",
)  # fmt: skip
_FIRST, _SECOND = "Describe the picture.", "What else is there?"
_MARK_PX = 16
_N_DECODE = 64
_ONE_TOKEN = SamplingOptions(temperature=0, max_new_tokens=1)


@dataclass(frozen=True)
class Benchmark:
    """The figures of a benchmark.

    Attributes:
        spreads: By name: those in FIGURES, and projector_s. Units: seconds `_s`, tokens or positions per second `_tps`.
        n_image_tokens: Context positions that the image takes.
        vision_on, language_on: Where it was measured, as in `Timings`.
    """

    spreads: dict[str, Spread]
    n_image_tokens: int
    vision_on: str
    language_on: str

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values: medians by name, and under "spread" the median, min and max of each."""
        medians: dict[str, Any] = {name: self.spreads[name].median for name in FIGURES}
        medians |= {"vision_on": self.vision_on, "language_on": self.language_on}
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
    """Measures everything `n_runs` times. Every run uses a different image, so that no cache makes it look faster.

    Args:
        bundle: An opened bundle; its digests are checked on first use.
        image: The image that all others are made from.
        options: Options of the runs with a loaded model.
        cold_arguments: The command-line options of `edge-llava chat` that are equivalent to `options`.
        n_runs: At least 1.
        progress: Called with the number of runs done.

    Raises:
        BundleError: If images cannot be reduced to `options.visual_tokens`, or limited to `options.max_tiles`.
        ImageError: If the image cannot be read.
        BackendError: If a new process failed; contains its error output.
    """
    form = image_forms(bundle.manifest.vision, options).alone
    source = open_image(image, alpha=options.alpha)
    bundle.verify_digests(trust_earlier=True, progress=progress)
    samples: dict[str, list[float]] = {name: [] for name in (*FIGURES, "projector_s")}
    with tempfile.TemporaryDirectory() as directory:
        for run in range(n_runs):
            path = Path(directory) / f"{run}.jpg"
            mark_image(source, run).save(path, quality=95)
            arguments = [*cold_arguments, "-m", str(bundle.path), str(path)]
            seconds, peak = _answer_cold([*arguments, "--no-cache"], directory)
            samples["ttft_cold_s"].append(seconds)
            samples["peak_rss_bytes"].append(peak)
            _answer_cold(arguments, directory)  # fills the disk cache
            samples["ttft_restored_s"].append(_answer_cold(arguments, directory)[0])
            progress(ProgressEvent("cold processes", run + 1, n_runs, "items"))
    with LlavaModel(bundle, options) as model:
        n_image_tokens = count_tokens(source.size, form, options.visual_tokens)
        warmed_up = _ask(model.session(_ONE_TOKEN), _FIRST, mark_image(source, n_runs))
        for run in range(n_runs):
            for name, value in _answer_loaded(model, mark_image(source, n_runs + 1 + run)):
                samples[name].append(value)
            progress(ProgressEvent("loaded", run + 1, n_runs, "items"))
    spreads = {name: summarize(values) for name, values in samples.items()}
    return Benchmark(spreads, n_image_tokens, warmed_up.vision_on or "cpu", warmed_up.language_on)


def mark_image(image: Image.Image, number: int) -> Image.Image:
    """Pastes a small square of noise into an image: a different one for every number, to defeat all caches.

    The square is in the middle, which no tower crops.
    """
    marked = image.copy()
    noise = np.random.default_rng(number).integers(0, 256, (_MARK_PX, _MARK_PX, 3), dtype=np.uint8)
    marked.paste(Image.fromarray(noise), ((marked.width - _MARK_PX) // 2, (marked.height - _MARK_PX) // 2))
    return marked


def _answer_cold(arguments: list[str], cache: str) -> tuple[float, int]:
    """Returns the seconds from the start of a process to its one-token answer, and its peak memory in bytes."""
    environment = os.environ | {"EDGE_LLAVA_CACHE": cache}
    command = [sys.executable, "-m", "edge_llava.cli", "chat", "-p", _FIRST, "-n", "1", "--temp", "0", "--json"]
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as chat,
    ):
        assert chat.stdout is not None
        first = chat.stdout.read(1)
        seconds = time.perf_counter() - started
        answer = first + chat.stdout.read()
        if chat.wait():
            errors.seek(0)
            raise BackendError(f"a benchmark process failed: {errors.read().decode('utf-8', 'replace').strip()}")
    return seconds, int(json.loads(answer)["timings"]["peak_rss_bytes"])


def _answer_loaded(model: LlavaModel, image: Image.Image) -> Iterator[tuple[str, float]]:
    """Yields the figures of a new image and a second question about it."""
    session = model.session(_ONE_TOKEN)
    first = _ask(session, _FIRST, image)
    yield "ttft_loaded_s", first.ttft_s
    yield "vision_s", first.vision_s
    yield "projector_s", first.projector_s
    yield "prefill_tps", first.prefill_tokens / first.prefill_s
    yield "ttft_second_question_s", _ask(session, _SECOND).ttft_s
    yield "decode_tps", _decode_rate(model, image)


def _ask(session: Session, question: str, image: Image.Image | None = None) -> Timings:
    list(session.ask(question, image=image))
    assert session.timings is not None
    return session.timings


def _decode_rate(model: LlavaModel, image: Image.Image) -> float:
    """Measures decoding in tokens per second after a cached prompt; the answer is kept from ending early."""
    no_end = tuple((id_, -100.0) for id_ in model.manifest.language.end_ids)
    session = model.session(SamplingOptions(temperature=0, max_new_tokens=_N_DECODE, logit_bias=no_end))
    timings = _ask(session, _FIRST, image)
    return (timings.decode_tokens - 1) / timings.decode_s
