"""edge-llava eval BENCHMARK: asks a bundle the questions of a published benchmark, and scores the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from edge_llava.bundle.templates import TEMPLATES
from edge_llava.cli.display import note, show, show_progress, show_result
from edge_llava.cli.eval_scores import read_data, show_scores
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.evaluation.benchmarks.scienceqa_problem import FORMATS

_FORMAT = "ScienceQA: how to ask, such as QCM-LEA for a model that was trained so. Default: letter."
# By benchmark: what it is, in a few words, and the tokens of an answer in published runs.
_BENCHMARKS = {
    "scienceqa": ("ScienceQA: choices about school subjects", 1024),
    "pope": ("POPE: whether something is in the image", 128),
    "textvqa": ("TextVQA: questions about text in images", 128),
    "vqav2": ("VQAv2: questions about photographs", 128),
    "vizwiz": ("VizWiz: questions of blind people", 128),
    "gqa": ("GQA: questions about scene graphs", 128),
    "mme": ("MME: yes or no, twice about each image", 128),
    "mmbench": ("MMBench: choices, in every rotation", 1024),
    "seed": ("SEED-Bench: choices about images and frames of videos", 128),
    "questions": ("Questions of your own, with or without answers", 128),
}
_HELP = """{what}.

    DATA is the benchmark's own file, files or directory, as its authors publish it. Every question is a conversation of
    its own, answered greedily; each image is encoded once. The same command continues a run that was stopped.

    \b
    edge-llava eval {name} DATA --images DIR -o my-run
    """


def _make_command(name: str) -> click.Command:
    what, usual_tokens = _BENCHMARKS[name]

    @click.command(name, cls=EngineCommand, help=_HELP.format(what=what, name=name))
    @click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
    @bundle_option
    @click.option(
        "--images",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Directory of the images. Default: that of DATA.",
    )
    @click.option(
        "-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of the run."
    )
    @click.option("--format", "form", type=click.Choice(FORMATS), metavar="FORMAT", help=_FORMAT)
    @click.option("--split", metavar="NAME", help="ScienceQA: one of pid_splits.json. Default: test.")
    @click.option("--sample", type=click.IntRange(1), metavar="N", help="Ask at least N questions, on whole images.")
    @click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sample.")
    @click.option(
        "--template",
        type=click.Choice(["auto", *TEMPLATES]),
        default="auto",
        metavar="NAME",
        help="Conversation template. auto: vicuna_v1, as published, for llava_v1; else the bundle's own.",
    )
    @click.option(
        "--max-tokens",
        type=click.IntRange(1),
        default=usual_tokens,
        show_default=True,
        help="Of an answer. Fewer than usual make a run that is not comparable.",
    )
    @click.option("--skip-faulty", is_flag=True, help="Leave out questions whose image is missing.")
    @engine_options()
    @json_option
    def run_command(
        data: tuple[Path, ...],
        bundle: str | None,
        images: Path | None,
        out: Path,
        form: str | None,
        split: str | None,
        sample: int | None,
        seed: int,
        template: str,
        max_tokens: int,
        skip_faulty: bool,
        engines: EngineChoice,
        as_json: bool,
    ) -> None:
        from edge_llava.bundle.bundle import open_bundle
        from edge_llava.evaluation.benchmarks.sampling import Part
        from edge_llava.evaluation.benchmarks.sampling import sample as take
        from edge_llava.evaluation.bundle_asker import BundleAsker, with_template
        from edge_llava.evaluation.run import BenchmarkRun, find_missing_images, refuse_missing_images

        whole = read_data(name, data, form, split)
        benchmark = take(whole, sample, seed)
        directory = images or _usual_images(name, data[0], split or "test")
        missing = find_missing_images(benchmark, directory)
        if not skip_faulty:
            refuse_missing_images(missing, directory)
        elif missing:
            left_out = {item.key for item in missing}
            benchmark = Part(benchmark, [item for item in benchmark.items if item.key not in left_out])
            note(f"{len(missing):,} questions are left out: their images are missing.")
        opened = with_template(open_bundle(bundle), template)
        settings: dict[str, Any] = {
            "benchmark": name,
            "questions": _digest(json.dumps([item.key, item.text, item.label]) for item in whole.items),
            "template": opened.manifest.language.template.name,
            "max_tokens": max_tokens,
            "bundle": opened.name,
            "weights": _digest(sorted(entry.sha256 for entry in opened.manifest.files.values())),
            "versions": {name: version(name) for name in ("edge-llava", "llama-cpp-python")},
            "visual_tokens": engines.visual_tokens,
            "max_tiles": engines.max_tiles,
        }
        with BenchmarkRun(out, benchmark, settings) as run:
            if run.todo:
                options = engines.options(opened)
                with (
                    open_model(
                        opened, options, force=engines.load_anyway, may_move=engines.leaves_blocks_open
                    ) as model,
                    show_progress() as progress,
                ):
                    asker = BundleAsker(model, lambda name: benchmark.find_image(name, directory), max_tokens)
                    run.answer(asker, progress)
            scores = run.finish()
        if as_json:
            click.echo(json.dumps(scores.to_dict(), indent=2))
            return
        show_scores(opened.name, scores)
        if max_tokens < usual_tokens:
            show(f"Answers had {max_tokens} tokens at most, published ones {usual_tokens}: not comparable.")
        show_result(out)

    return run_command


def _usual_images(name: str, data: Path, split: str) -> Path:
    """Where a benchmark's images lie as it is published."""
    directory = data if data.is_dir() else data.parent
    return directory / "images" / split if name == "scienceqa" else directory


def _digest(texts: Iterable[str]) -> str:
    """Of texts in their order, in 16 digits."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


COMMANDS = tuple(_make_command(name) for name in _BENCHMARKS)
