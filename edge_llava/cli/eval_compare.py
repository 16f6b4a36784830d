"""edge-llava eval compare and plan: what differs between two sets of answers, and how many questions show it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import show
from edge_llava.cli.eval_data import DataCommand, data_options, open_run_at, read_data, show_figures
from edge_llava.cli.eval_score import read_answers
from edge_llava.cli.options import bundle_option, json_option
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.source import ReadOptions

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark
    from edge_llava.evaluation.benchmarks.scoring import Scores
    from edge_llava.evaluation.difference import Difference

_LEAST_POINTS = 0.001  # billions of questions
_POINTS = click.FloatRange(0, 100, min_open=True)
_PLACE = click.Path(exists=True, path_type=Path)
# What may not differ between two runs that are compared: other questions, or asked in other words.
_SAME = ("benchmark", "questions", "asked", "template", "max_tokens")


@click.command("compare", cls=DataCommand)
@click.argument("a", type=_PLACE)
@click.argument("b", type=_PLACE)
@click.argument("data", nargs=-1, type=_PLACE)
@click.option("--also", nargs=2, multiple=True, type=_PLACE, metavar="A B", help="Two more runs; repeatable.")
@click.option("--benchmark", type=click.Choice(list(KINDS)), metavar="NAME", help="Of files of answers.")
@click.option("--margin", type=_POINTS, metavar="POINTS", help="Test whether they are equally good within so many.")
@click.option("--common", is_flag=True, help="Compare what both answered, where some answers are missing.")
@data_options()
@click.option("--reread", is_flag=True, help="ScienceQA's results: read the texts anew, not what was read of them.")
@json_option
def compare_command(
    a: Path,
    b: Path,
    data: tuple[Path, ...],
    also: tuple[tuple[Path, Path], ...],
    benchmark: str | None,
    margin: float | None,
    common: bool,
    reading: ReadOptions,
    reread: bool,
    as_json: bool,
) -> None:
    """Compare two runs or files of answers, question by question.

    Says what changed from A to B, and whether that may be chance: McNemar's exact test, or resampled pictures where
    answers are graded. With --margin it says whether the two are shown to be equally good; that no difference is found
    does not show it. With --also several pairs are compared at once, and p-values count how many (Holm). DATA is needed
    for files, and for runs whose data have moved.

    \b
    edge-llava eval compare f16-run q4-run --margin 1
    edge-llava eval compare f16-pope q4-pope --also f16-gqa q4-gqa
    edge-llava eval compare f16.jsonl q4.jsonl coco_pope_*.json --benchmark pope
    """
    from edge_llava.evaluation.difference import compare, correct_by_holm

    if (also or benchmark is None) and (benchmark or reading.given or reread):
        raise click.UsageError("runs know how they were asked; --benchmark and how data are read are for two files")
    pairs = [(a, b), *also]
    read = [
        _read_runs(first, second, data)
        if benchmark is None
        else _read_files(benchmark, data, reading, (a, b), reread=reread)
        for first, second in pairs
    ]
    found = [compare(whole, x, y, margin=margin, common=common) for whole, x, y in read]
    if also:
        found = correct_by_holm(found)
    if as_json:
        values = [each.to_dict() for each in found]
        click.echo(json.dumps(values if also else values[0], indent=2))
        return
    for (first, second), (_, x, y), difference in zip(pairs, read, found, strict=True):
        _show(difference, (str(first), str(second)), () if common else (x, y))


def _show(difference: Difference, names: tuple[str, str], scores: Sequence[Scores]) -> None:
    if difference.p_holm is not None:
        show(f"{difference.benchmark}:")
    for line in difference.describe(*names):
        show(line)
    if difference.p_holm is not None:
        show(f"p = {difference.p_holm:.3g}, where all of these benchmarks count (Holm).")
    for name, each in zip(names, scores, strict=False):  # where only a part is compared, figures of all would mislead
        show(f"{name}:")
        show_figures(each.figures[:1])


def _read_runs(a: Path, b: Path, moved: Sequence[Path]) -> tuple[Benchmark, Scores, Scores]:
    from edge_llava.errors import DataError, list_faults
    from edge_llava.evaluation.run import list_differences

    runs = [open_run_at(path, moved) for path in (a, b)]
    of_both = [{name: run.settings.get(name) for name in _SAME} | {"judges": run.judges} for run in runs]
    differences = list_differences(of_both[0], of_both[1], ("in A", "in B"))
    if differences:
        raise DataError(list_faults(f"{a} (A) and {b} (B) cannot be compared:", differences))
    scores = [run.scores() for run in runs]
    return runs[0].benchmark, scores[0], scores[1]


def _read_files(
    name: str, data: Sequence[Path], reading: ReadOptions, files: tuple[Path, Path], *, reread: bool
) -> tuple[Benchmark, Scores, Scores]:
    from edge_llava.evaluation.benchmarks.scoring import score

    if not data:
        raise click.UsageError(f"name the data of {name}: its authors' files or directory")
    read = read_data(name, data, reading)
    scores = [score(read, read_answers(read, path, reread=reread)) for path in files]
    return read, scores[0], scores[1]


@click.command("plan")
@click.option("--detect", required=True, type=_POINTS, metavar="POINTS", help="The difference to be seen.")
@click.option(
    "--discordant",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="Questions that one of the two answers right and the other wrong.",
)
@bundle_option
@json_option
def plan_command(detect: float, discordant: float, bundle: str | None, as_json: bool) -> None:
    """Say how many questions it takes to see a difference.

    With a power of 80 %, at a level of 5 %. `eval compare` counts what one of two answers right and the other wrong: on
    the demo, 1.3 percent between F16 and Q3_K_M, and 2.7 between F16 and Q2_K. With -m also how long each benchmark
    takes on this device, from what `edge-llava tune` measured.
    """
    from edge_llava.evaluation.comparison import questions_needed

    if not (math.isfinite(detect) and math.isfinite(discordant)) or detect < _LEAST_POINTS:
        raise click.UsageError(f"--detect and --discordant must be numbers, and --detect at least {_LEAST_POINTS:g}")
    if detect > discordant:
        raise click.UsageError(f"--detect {detect:g} is more than --discordant {discordant:g}")
    n = questions_needed(detect / 100, discordant / 100)
    times = {} if bundle is None else _times(bundle, n)
    if as_json:
        facts = {"questions": n, "detect_points": detect, "discordant_percent": discordant}
        hours = {name: {"all_s": whole, "planned_s": part} for name, (_, whole, part) in times.items()}
        click.echo(json.dumps(facts | {"seconds": hours}, indent=2))
        return
    show(f"{n:,} questions show a difference of {detect:g} points where {discordant:g} % are right in one only.")
    if times:
        show(f"{bundle} takes on this device, for each of the two:")
        show(f"  {'':<12}{'questions':>10}{'all of them':>16}{f'{n:,} of them':>20}")
    for name, (n_all, whole, part) in times.items():
        shown = "-" if part is None else _duration(part)
        show(f"  {name:<12}{n_all:>10,}{_duration(whole):>16}{shown:>20}")


def _times(bundle: str, n: int) -> dict[str, tuple[int, float, float | None]]:
    """Of each benchmark: its questions, and the seconds that all of them and `n` of them take; None: it has fewer."""
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.evaluation.duration import find_pace

    pace = find_pace(open_bundle(bundle).manifest)
    if pace is None:
        raise click.UsageError(f"-m: measure {bundle} on this device first, with 'edge-llava tune -m {bundle}'")
    published = {name: kind for name, kind in KINDS.items() if kind.n_questions}
    return {
        name: (kind.n_questions, pace.seconds(kind), pace.seconds(kind, n) if n <= kind.n_questions else None)
        for name, kind in published.items()
    }


def _duration(seconds: float) -> str:
    """3 min, 4.2 h, 12 days."""
    for size, unit in ((48 * 3600, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            amount = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{seconds:.0f} s"
