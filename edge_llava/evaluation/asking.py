"""Asks a bundle a benchmark, or a part of one, in a run that can be stopped and continued."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_llava.bundle.bundle import Bundle, open_bundle
from edge_llava.evaluation.benchmarks.benchmark import Benchmark
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.sampling import leave_out
from edge_llava.evaluation.bundle_asker import BundleAsker, with_template
from edge_llava.evaluation.run import BenchmarkRun, find_missing_images, refuse_missing_images
from edge_llava.evaluation.run_record import digest_questions
from edge_llava.fitting.bundle_needs import used_devices
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.home.files import digest_file
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.runtime.options import EngineOptions, unattended

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.scoring import Scores
    from edge_llava.runtime.model import LlavaModel

_SHORT_TOKENS = 4

_Open = Callable[[Bundle, EngineOptions], AbstractContextManager["LlavaModel"]]


@dataclass(frozen=True)
class AskOptions:
    """How questions are asked.

    Attributes:
        images: Directory of the images; None: where they are published beside the data.
        template: Of the conversation, see `with_template`.
        max_tokens: Of an answer; None: as in published runs. Fewer make a run that is not comparable.
        parallel: Questions that are asked at the same time.
        skip_faulty: Leave out questions whose image is missing.
    """

    images: Path | None = None
    template: str = "auto"
    max_tokens: int | None = None
    parallel: int = 1
    skip_faulty: bool = False


def answer(
    benchmark: Benchmark,
    bundle: Bundle | str | None,
    out: Path,
    *,
    options: AskOptions = AskOptions(),
    engine: EngineOptions | None = None,
    open_model: _Open | None = None,
    progress: ProgressCallback = silent,
) -> Scores:
    """Asks what the run has no answer to yet, and scores all.

    Args:
        benchmark: From `read_benchmark`, or a part of one.
        bundle: A name in the home, a directory, or an opened bundle; None is the default bundle.
        out: Directory of the run. The same call continues a run that was stopped.
        options: How questions are asked.
        engine: Of the model; None: the defaults.
        open_model: Opens it; None: `LlavaModel`.
        progress: Called after every answer.

    Raises:
        DataError: If images are missing, or the run was begun with other settings, or cannot be written.
        BundleError, BackendError: If the bundle cannot be opened.
        ImageError: If an image cannot be read.
    """
    from edge_llava.runtime.model import LlavaModel

    directory = usual_images(benchmark) if options.images is None else options.images
    missing = find_missing_images(benchmark, directory)
    if not options.skip_faulty:
        refuse_missing_images(missing, directory)
    asked = leave_out(benchmark, {item.key for item in missing})
    opened = with_template(open_bundle(bundle), benchmark, options.template)
    kind = KINDS[benchmark.name]
    max_tokens = options.max_tokens or kind.n_tokens
    n_tokens = min(max_tokens, kind.typical_tokens)
    engine = for_questions(engine or EngineOptions(), opened, options.parallel, n_tokens)
    settings = _settings(asked, opened, options, engine, max_tokens)
    with BenchmarkRun(out, asked, settings) as run:
        if run.todo:
            with (open_model or LlavaModel)(opened, engine) as model:
                asker = BundleAsker(model, lambda name: asked.find_image(name, directory), max_tokens)
                run.answer(asker, progress, parallel=options.parallel, cancel=asker.cancel)
        return run.finish()


def usual_images(benchmark: Benchmark) -> Path:
    """Where the images of a benchmark lie as it is published.

    Raises:
        ValueError: If it was not read by `read_benchmark`.
    """
    source = benchmark.source
    if source is None:
        raise ValueError("name the directory of the images: the benchmark was not read from files")
    place = source.paths[0]
    directory = place if place.is_dir() else place.parent
    if source.name == "scienceqa":
        return directory / "images" / (source.options.split or "test")
    inside = directory / "images"
    return inside if source.name == "llava-bench" and inside.is_dir() else directory


def for_questions(engine: EngineOptions, bundle: Bundle, parallel: int, n_tokens: int) -> EngineOptions:
    """Options for many questions behind images, so many at a time, whose answers are about `n_tokens` long.

    On a CPU, plain attention writes faster, and reads one question faster. Flash attention, which is llama.cpp's choice
    for several at a time, reads three and more faster, and of a short answer the question takes most of the time.
    """
    decoder = engine.decoder
    mostly_reads = parallel > 2 and n_tokens <= _SHORT_TOKENS
    if decoder.flash_attention is None and decoder.kv_type != "q8_0" and not mostly_reads and not used_devices(engine):
        engine = replace(engine, decoder=replace(decoder, flash_attention=False))
    return unattended(engine, bundle.manifest.language, parallel)


def _settings(
    benchmark: Benchmark, bundle: Bundle, options: AskOptions, engine: EngineOptions, max_tokens: int
) -> dict[str, Any]:
    """Everything that decides an answer, as JSON values."""
    decoder, source = engine.decoder, benchmark.source
    settings: dict[str, Any] = {
        "benchmark": benchmark.name,
        "questions": digest_questions(benchmark),
        "asked": None if source is None else asdict(source.options),
        "template": bundle.manifest.language.template.name,
        "max_tokens": max_tokens,
        "bundle": bundle.name,
        "manifest": digest_file(bundle.path / MANIFEST_NAME)[:16],
        "versions": {name: version(name) for name in ("edge-llava", "llama-cpp-python")},
        "visual_tokens": engine.visual_tokens,
        "max_tiles": engine.max_tiles,
        "parallel": options.parallel,
        "decoder": {
            "n_ctx": decoder.n_ctx,
            "n_gpu_layers": decoder.n_gpu_layers,
            "devices": None if decoder.devices is None else list(decoder.devices),
            "flash_attention": decoder.flash_attention,
            "kv_type": decoder.kv_type,
            "repack": decoder.repack,
        },
    }
    return settings
