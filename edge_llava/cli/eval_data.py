"""How commands read a benchmark's data and runs, and how they print scores."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import show
from edge_llava.evaluation.benchmarks.scienceqa_problem import FORMATS
from edge_llava.evaluation.benchmarks.source import ReadOptions

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure
    from edge_llava.evaluation.benchmarks.scoring import Scores
    from edge_llava.evaluation.run_record import RunRecord

_Command = Callable[..., Any]
_OPTIONS = {
    "form": click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        metavar="FORMAT",
        help="ScienceQA: how it is asked, such as QCM-LEA for a model that was trained so. Default: letter.",
    ),
    "split": click.option("--split", metavar="NAME", help="ScienceQA: one of pid_splits.json. Default: test."),
    "circular": click.option(
        "--circular", is_flag=True, help="MMBench: also ask every rotation of the options, where DATA has none."
    ),
    "collection": click.option(
        "--set",
        "collection",
        type=click.Choice(["coco", "wild"]),
        help="LLaVA-Bench: which one DATA is. Default: by its files.",
    ),
}


class DataCommand(click.Command):
    """A command with `data_options`, whose function takes their values as `reading: ReadOptions`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the command's function."""
        names = _OPTIONS.keys() & ctx.params.keys()
        ctx.params["reading"] = ReadOptions(**{name: ctx.params.pop(name) for name in names})
        return super().invoke(ctx)


def data_options(names: Sequence[str] = tuple(_OPTIONS)) -> Callable[[_Command], _Command]:
    """A decorator that adds how data are read: fields of `ReadOptions`."""

    def decorate(command: _Command) -> _Command:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorate


def read_data(name: str, data: Sequence[Path], reading: ReadOptions) -> Benchmark:
    """Reads a benchmark's data; options that it does not have are a mistake of the user's."""
    from edge_llava.evaluation.benchmarks.kinds import KINDS
    from edge_llava.evaluation.benchmarks.registry import read_benchmark

    foreign = sorted(reading.given - set(KINDS[name].options))
    if foreign:
        flags = {"form": "--format", "collection": "--set"}
        shown = ", ".join(flags.get(option, f"--{option}") for option in foreign)
        raise click.UsageError(f"{shown} cannot be used with {name}")
    return read_benchmark(name, data, reading)


def open_run_at(path: Path, moved: Sequence[Path] = ()) -> RunRecord:
    """A run, with its data where they lay or where they are now."""
    from edge_llava.evaluation.run_record import is_run, open_run

    if not is_run(path):
        raise click.UsageError(f"{path} is not the directory of a run")
    return open_run(path, moved)


def show_scores(whose: str, scores: Scores) -> None:
    """Prints what answers are worth, as lines of at most 80 columns."""
    for line in textwrap.wrap(f"{whose}: {scores.benchmark} ({scores.variant}), {scores.n:,} questions", 80):
        show(line)
    show_figures(scores.figures)
    without = "are left out" if scores.benchmark == "llava-bench" else "count as wrong"
    unrated = "count as 0" if scores.benchmark == "mm-vet" else "are left out"
    for n, what in (
        (scores.n_missing, f"questions without an answer, which {without}"),
        (scores.n_unreadable, "answers that name none of the choices, read as the published script does"),
        (scores.n_cut_off, "answers cut off at the limit of tokens, scored as they are"),
        (scores.n_unrated, f"reviews without a rating, which {unrated}"),
        (scores.n_unjudged, "answers without a review; 'edge-llava eval judge' asks for them"),
    ):
        if n:
            show(f"{what}: {n:,}")


def show_figures(figures: Sequence[Figure]) -> None:
    """Prints figures with their intervals, a line each."""
    width = max((len(figure.name) for figure in figures), default=0)
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.{0 if figure.method == 'count' else 2}f}"
        known = figure.low is not None and figure.high is not None
        interval = f"  95 % {figure.low:.2f} to {figure.high:.2f}" if known else ""
        show(f"  {figure.name:<{width}}  {value:>8}{interval}  n {figure.n:,}")
