"""edge-llava eval BENCHMARK: asks a bundle the questions of a published benchmark, and scores the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edge_llava.bundle.templates import TEMPLATES
from edge_llava.cli.display import note, show_progress, show_result
from edge_llava.cli.eval_data import DataCommand, data_options, read_data, show_scores
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.source import ReadOptions

_HELP = """{what}.

    DATA is the benchmark's own file, files or directory, as its authors publish it. Every question is a conversation of
    its own, answered greedily; each image is encoded once. The same command continues a run that was stopped.

    \b
    edge-llava eval {name} DATA --images DIR -o my-run
    """


class _AskCommand(EngineCommand, DataCommand):
    """A command with options of the engines and of data."""


def _make_command(name: str) -> click.Command:
    kind = KINDS[name]

    @click.command(name, cls=_AskCommand, help=_HELP.format(what=kind.what, name=name))
    @click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
    @bundle_option
    @click.option(
        "--images",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Directory of the images. Default: where they are published beside DATA.",
    )
    @click.option(
        "-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of the run."
    )
    @data_options(kind.options)
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
        default=kind.n_tokens,
        show_default=True,
        help="Of an answer. Fewer than usual make a run that is not comparable.",
    )
    @click.option(
        "--parallel",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        metavar="N",
        help="Questions at a time: faster, and answers may differ where two tokens are nearly as likely.",
    )
    @click.option("--skip-faulty", is_flag=True, help="Leave out questions whose image is missing.")
    @engine_options()
    @json_option
    def run_command(
        data: tuple[Path, ...],
        bundle: str | None,
        images: Path | None,
        out: Path,
        reading: ReadOptions,
        sample: int | None,
        seed: int,
        template: str,
        max_tokens: int,
        parallel: int,
        skip_faulty: bool,
        engines: EngineChoice,
        as_json: bool,
    ) -> None:
        from edge_llava.bundle.bundle import open_bundle
        from edge_llava.evaluation.asking import AskOptions, answer
        from edge_llava.evaluation.benchmarks.sampling import sample as take

        benchmark = take(read_data(name, data, reading), sample, seed)
        opened = open_bundle(bundle)
        with _explain_how_to_resume(out), show_progress() as progress:
            scores = answer(
                benchmark,
                opened,
                out,
                options=AskOptions(images, template, max_tokens, parallel, skip_faulty),
                engine=engines.options(opened),
                open_model=lambda bundle, options: open_model(
                    bundle, options, force=engines.load_anyway, may_move=engines.leaves_blocks_open
                ),
                progress=progress,
            )
        if scores.n < len(benchmark.items):
            note(f"{len(benchmark.items) - scores.n:,} questions are left out: their images are missing.")
        if as_json:
            click.echo(json.dumps(scores.to_dict(), indent=2))
            return
        show_scores(opened.name, scores)
        show_result(out)

    return run_command


@contextmanager
def _explain_how_to_resume(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if (out / "answers.jsonl").exists():
            note(f"Answers are kept in {out}; run the same command again to resume.")
        raise


COMMANDS = tuple(_make_command(name) for name in KINDS)
