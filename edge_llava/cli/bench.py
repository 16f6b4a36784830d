"""edge-llava bench: measures how fast a bundle is on this device."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.crashes import avoid_crash
from edge_llava.cli.display import format_bytes, note, show, show_progress
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option
from edge_llava.cli.places import describe_places
from edge_llava.cli.shortage import make_fit
from edge_llava.demo import find_image

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.measuring.benchmark import Benchmark
    from edge_llava.measuring.spread import Spread
    from edge_llava.runtime.options import EngineOptions

_ROWS = (
    ("ttft_cold_s", "first token, new process"),
    ("ttft_loaded_s", "first token, loaded, new image"),
    ("ttft_second_question_s", "first token, second question"),
    ("ttft_restored_s", "first token, image seen before"),
    ("vision_s", "vision tower"),
    ("projector_s", "projector"),
    ("prefill_tps", "prefill"),
    ("decode_tps", "decode"),
    ("peak_rss_bytes", "peak memory, new process"),
)


@click.command("bench", cls=EngineCommand)
@bundle_option
@click.option(
    "--image",
    type=click.Path(),
    default="demo:1",
    show_default=True,
    metavar="IMG",
    help="Image to ask about.",
)
@click.option("--runs", type=click.IntRange(1), default=5, metavar="N", show_default=True, help="Number of runs.")
@engine_options()
@json_option
def command(
    bundle: str | None,
    image: str,
    runs: int,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Measure how fast a bundle is on this device.

    Each figure is the median, the smallest and the largest of several runs. A new process is timed from its start to
    its first token, with its files in the system's cache. Every run uses a different image. Prefill is in positions per
    second, decode in tokens per second.

    \b
    edge-llava bench
    edge-llava bench -m my-bundle --image img.jpg --runs 9 --json
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.device.cpu_times import BUSY_CPUS, others_since, read_cpu_times
    from edge_llava.measuring.benchmark import run_benchmark

    opened, before = open_bundle(bundle), read_cpu_times()
    may_move = engines.leaves_blocks_open
    options = avoid_crash(opened, engines.options(opened), may_move=may_move)
    options = make_fit(opened, options, force=engines.load_anyway, may_move=may_move)
    with show_progress() as progress:
        benchmark = run_benchmark(
            opened, find_image(image) or Path(image), options, engines.arguments(), runs, progress=progress
        )
    others = others_since(before)
    if as_json:
        settings = _settings(opened, image, runs, options, benchmark)
        settings |= {"profile": _is_tuned(opened, engines, options), "other_cpus": others}
        click.echo(json.dumps(benchmark.to_dict() | {"settings": settings}, indent=2))
        return
    show("\n".join(_describe(opened, options, tuned=_is_tuned(opened, engines, options))))
    show("\n".join(_format_table(benchmark, runs)))
    if others is not None and others > BUSY_CPUS:
        note(f"Other programs kept {others:.1f} CPUs busy meanwhile, so that fewer threads may have computed.")


def _is_tuned(bundle: Bundle, engines: EngineChoice, options: EngineOptions) -> bool:
    from edge_llava.device.profile import find_profile
    from edge_llava.runtime.options import device_facts

    return not engines.no_profile and find_profile(bundle.manifest, device_facts(options)) is not None


def _settings(bundle: Bundle, image: str, runs: int, options: EngineOptions, benchmark: Benchmark) -> dict[str, Any]:
    """The settings that the figures belong to."""
    from edge_llava.device.threads import usable_threads
    from edge_llava.runtime.options import device_facts

    engines = asdict(options)
    engines["n_vision_threads"] = usable_threads(options.n_vision_threads)
    engines["decoder"]["n_threads"] = usable_threads(options.decoder.n_threads)
    return {
        "bundle": str(bundle.path),
        "quant": bundle.manifest.language.quant,
        "image": image,
        "n_image_tokens": benchmark.n_image_tokens,
        "runs": runs,
        "engines": engines,
        "device": asdict(device_facts(options)),
        "versions": {"edge-llava": version("edge-llava"), "python": platform.python_version()},
        "system": platform.platform(),
    }


def _describe(bundle: Bundle, options: EngineOptions, *, tuned: bool) -> Iterator[str]:
    """What was measured, and where, as lines of at most 80 columns."""
    from edge_llava.device.threads import usable_threads
    from edge_llava.runtime.options import device_facts

    facts = device_facts(options)
    yield f"{bundle.name[:56]}, {bundle.manifest.language.quant}"
    yield f"{facts.cpu[:50]}, {facts.n_cpus} CPUs, {platform.system()} {facts.machine}"
    engines = f"llama-cpp-python {facts.llama_cpp}, ONNX Runtime {facts.onnxruntime or 'none'}"
    yield f"edge-llava {version('edge-llava')}, {engines}, Python {platform.python_version()}"[:80]
    n_threads, n_vision = (usable_threads(n) for n in (options.decoder.n_threads, options.n_vision_threads))
    settings = "as tuned" if tuned else "not tuned"
    yield f"threads: language {n_threads}, vision {n_vision}; settings: {settings}"


def _format_table(benchmark: Benchmark, runs: int) -> Iterator[str]:
    """The figures as lines of at most 80 columns."""
    yield f"{benchmark.n_image_tokens} image tokens, {runs} runs"
    yield describe_places(benchmark.language_on, benchmark.vision_on)
    yield ""
    yield f"{'':<34}{'median':>12}{'min':>12}{'max':>12}"
    for name, words in _ROWS:
        yield f"{words:<34}" + "".join(f"{_format(name, value):>12}" for value in _values(benchmark.spreads[name]))


def _values(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.min, spread.max


def _format(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return format_bytes(int(value))
    return f"{value:.1f} /s" if name.endswith("_tps") else f"{value:.3f} s"
