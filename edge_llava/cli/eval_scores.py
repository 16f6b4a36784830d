"""edge-llava eval score, compare and plan: what files of answers are worth. No engine is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import note, show
from edge_llava.cli.options import json_option
from edge_llava.evaluation.benchmarks.scienceqa_problem import FORMATS
from edge_llava.home.json_files import write_text

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Marked
    from edge_llava.evaluation.benchmarks.scoring import Scores

_JUDGED = "llava-bench"
_NAMES = ("scienceqa", "pope", "textvqa", "vqav2", "vizwiz", "gqa", "mme", "mmbench", "seed", "questions")

_FORMAT = "ScienceQA: how it was asked, such as QCM-LEA. Default: letter, as LLaVA-1.5 was."
_REREAD = "ScienceQA's result files: read the answers' texts anew, not what was read of them."
_LEAST_POINTS = 0.001  # billions of questions
_POINTS = click.FloatRange(0, 100, min_open=True)


def _read_options(command: Callable[..., None]) -> Callable[..., None]:
    """How data and answers of ScienceQA are read."""
    options = (
        click.option("--format", "form", type=click.Choice(FORMATS), metavar="FORMAT", help=_FORMAT),
        click.option("--split", metavar="NAME", help="ScienceQA: one of pid_splits.json. Default: test."),
        click.option("--reread", is_flag=True, help=_REREAD),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("score")
@click.option(
    "--answers",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Answers, as LLaVA's scripts write them. For llava-bench reviews: again for several judgings.",
)
@click.option("--benchmark", required=True, type=click.Choice([*_NAMES, _JUDGED]), metavar="NAME", help="Which one.")
@click.argument("data", nargs=-1, type=click.Path(exists=True, path_type=Path))
@_read_options
@click.option(
    "--wrong", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.jsonl", help="Write what was not right."
)
@json_option
def score_command(
    answers: tuple[Path, ...],
    benchmark: str,
    data: tuple[Path, ...],
    form: str | None,
    split: str | None,
    reread: bool,
    wrong: Path | None,
    as_json: bool,
) -> None:
    """Score a file of answers to a published benchmark.

    DATA is the benchmark's own file, files or directory, as its authors publish it. Answers are joined by id; what is
    missing counts as wrong.

    \b
    edge-llava eval score --answers a.jsonl --benchmark pope coco_pope_*.json
    edge-llava eval score --answers a.jsonl --benchmark scienceqa ScienceQA/
    edge-llava eval score --answers v.jsonl --benchmark textvqa val.json q.jsonl
    edge-llava eval score --answers review.jsonl --benchmark llava-bench
    """
    if benchmark == _JUDGED:
        if wrong is not None:
            raise click.UsageError("--wrong is for answers; reviews are graded")
        _score_reviews(answers, data, as_json=as_json)
        return
    if len(answers) != 1:
        raise click.UsageError("--answers is one file; several are for judgings of llava-bench")
    if not data:
        raise click.UsageError(f"name the data of {benchmark}: its authors' files or directory")
    scores = _score(read_data(benchmark, data, form, split), answers[0], reread=reread)
    if wrong is not None:
        lines = scores.wrong()
        write_text(wrong, "".join(f"{json.dumps(line)}\n" for line in lines))
        note(f"{len(lines):,} answers that are not right: {wrong}")
    if as_json:
        click.echo(json.dumps(scores.to_dict(), indent=2))
        return
    show_scores(answers[0].name, scores)


@click.command("compare")
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--benchmark", required=True, type=click.Choice(_NAMES), metavar="NAME", help="Which one.")
@click.option("--margin", type=_POINTS, metavar="POINTS", help="Test whether they are equally good within so many.")
@click.option("--common", is_flag=True, help="Compare what both answered, where some answers are missing.")
@_read_options
@json_option
def compare_command(
    a: Path,
    b: Path,
    data: tuple[Path, ...],
    benchmark: str,
    margin: float | None,
    common: bool,
    form: str | None,
    split: str | None,
    reread: bool,
    as_json: bool,
) -> None:
    """Compare two files of answers question by question.

    Says what changed from A to B, and whether that may be chance: McNemar's exact test, or resampled pictures where
    answers are graded. With --margin it says whether the two are shown to be equally good; that no difference is found
    does not show it.

    \b
    edge-llava eval compare f16.jsonl q4.jsonl coco_pope_*.json --benchmark pope
    """
    read = read_data(benchmark, data, form, split)
    first, second = (_score(read, path, reread=reread) for path in (a, b))
    if not first.figures:
        raise click.UsageError("these questions have no right answers to compare with; name a file of them as well")
    if (first.n_missing or second.n_missing) and not common:
        raise click.UsageError(
            f"{a} lacks {first.n_missing:,} answers and {b} {second.n_missing:,}; --common compares what both have"
        )
    kept = [x.text is not None and y.text is not None for x, y in zip(first.marked, second.marked, strict=True)]
    if not any(kept):
        raise click.UsageError(f"{a} and {b} answer no question in common")
    marked_a, marked_b = (list(compress(scores.marked, kept)) for scores in (first, second))
    found = _compare(read, marked_a, marked_b, str(a), str(b), margin)
    if as_json:
        click.echo(json.dumps(found.values, indent=2))
        return
    for line in found.lines:
        show(line)
    for path, marked in ((a, marked_a), (b, marked_b)):
        show(f"{path}:")
        _show_figures(read.figures(marked)[:1])


@dataclass(frozen=True)
class _Compared:
    values: dict[str, Any]
    lines: list[str]


def _compare(
    benchmark: Benchmark, a: Sequence[Marked], b: Sequence[Marked], name_a: str, name_b: str, margin: float | None
) -> _Compared:
    """Compares what counts as one in the benchmark."""
    from edge_llava.evaluation.comparison import compare, graded_difference, say_points

    n_changed = sum(x.text != y.text for x, y in zip(a, b, strict=True))
    units_a, units_b = benchmark.units(a), benchmark.units(b)
    points_a, points_b = ([each.mark.points for each in units] for units in (units_a, units_b))
    values: dict[str, Any] = {
        "n": len(units_a),
        "changed_texts": n_changed,
        "margin_points": margin,
        "equivalent": None,
    }
    if set(points_a) | set(points_b) <= {0.0, 1.0}:
        found = compare(*([(points == 1, "") for points in each] for each in (points_a, points_b)))
        low, high = found.interval()
        values |= {
            "lost": found.lost, "gained": found.gained, "difference": found.difference, "low": low, "high": high,
            "standard_error": found.error, "p_value": found.p_value,
        }  # fmt: skip
        if margin is not None:
            values["equivalent"] = found.is_equivalent(margin / 100)
        lines = [found.describe(name_a, name_b)]
        share = 100 * (found.lost + found.gained) / found.n
        lines.append(f"{share:.1f} % are right in one of the two only; {n_changed:,} of {len(a):,} texts differ.")
    else:
        pictures = [each.item.picture for each in units_a]
        difference, low_, high_ = graded_difference(points_a, points_b, pictures)
        values |= {"difference": difference, "low": low_, "high": high_}
        low, high = low_ or 0.0, high_ or 0.0
        if margin is not None:
            _, narrow_low, narrow_high = graded_difference(points_a, points_b, pictures, confidence=90)
            values["equivalent"] = max(abs(narrow_low or 0.0), abs(narrow_high or 0.0)) < margin / 100
        lines = [
            f"{name_b} against {name_a}: {say_points(difference)}, 95 % between {say_points(low)} and "
            f"{say_points(high)} (pictures resampled).",
            f"{n_changed:,} of {len(a):,} texts differ.",
        ]
    if margin is not None:
        verdict = "are shown to be" if values["equivalent"] else "are not shown to be"
        lines.append(f"They {verdict} equally good within {margin:g} points (90 % interval).")
    return _Compared(values, lines)


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
@json_option
def plan_command(detect: float, discordant: float, as_json: bool) -> None:
    """Say how many questions it takes to see a difference.

    With a power of 80 %, at a level of 5 %. `eval compare` counts what one of two answers right and the other wrong: on
    the demo, 1.3 percent between F16 and Q3_K_M, and 2.7 between F16 and Q2_K.
    """
    from edge_llava.evaluation.comparison import questions_needed

    if not (math.isfinite(detect) and math.isfinite(discordant)) or detect < _LEAST_POINTS:
        raise click.UsageError(f"--detect and --discordant must be numbers, and --detect at least {_LEAST_POINTS:g}")
    if detect > discordant:
        raise click.UsageError(f"--detect {detect:g} is more than --discordant {discordant:g}")
    n = questions_needed(detect / 100, discordant / 100)
    if as_json:
        click.echo(json.dumps({"questions": n, "detect_points": detect, "discordant_percent": discordant}, indent=2))
        return
    show(f"{n:,} questions show a difference of {detect:g} points where {discordant:g} % are right in one only.")


def show_scores(whose: str, scores: Scores) -> None:
    """Prints what answers are worth, as lines of at most 80 columns."""
    show(f"{whose}: {scores.benchmark} ({scores.variant}), {scores.n:,} questions")
    _show_figures(scores.figures)
    if scores.n_missing:
        show(f"{scores.n_missing:,} questions have no answer and count as wrong.")
    if scores.n_unreadable:
        show(f"{scores.n_unreadable:,} answers name none of those that there are; they are read as published.")


def read_data(name: str, data: Sequence[Path], form: str | None, split: str | None) -> Benchmark:
    """Reads a benchmark's data; `form` and `split` are ScienceQA's."""
    from edge_llava.evaluation.benchmarks.registry import read_benchmark, read_scienceqa

    if name == "scienceqa":
        return read_scienceqa(data, form or "letter", split or "test")
    if form is not None or split is not None:
        raise click.UsageError(f"--format and --split are for scienceqa, not for {name}")
    return read_benchmark(name, data)


def _score(benchmark: Benchmark, path: Path, *, reread: bool) -> Scores:
    from edge_llava.evaluation.benchmarks.answers import join_answers, read_answers
    from edge_llava.evaluation.benchmarks.scienceqa import read_results
    from edge_llava.evaluation.benchmarks.scoring import score

    answers = read_results(path, reread=reread) if benchmark.name == "scienceqa" else None
    if answers is None and reread:
        raise click.UsageError(f"--reread is for ScienceQA's result files, and {path} is none")
    return score(benchmark, join_answers(benchmark, read_answers(path) if answers is None else answers, str(path)))


def _score_reviews(files: Sequence[Path], data: Sequence[Path], *, as_json: bool) -> None:
    from dataclasses import asdict

    from edge_llava.evaluation.benchmarks.reviews import read_reviews, relative_scores

    if data:
        raise click.UsageError(f"reviews contain all there is to score; leave out {data[0]}")
    judgings = [read_reviews(path) for path in files]
    figures = relative_scores(judgings)
    n_unread = sum(review.ratings is None for reviews in judgings for review in reviews)
    if as_json:
        values = {"benchmark": _JUDGED, "figures": [asdict(figure) for figure in figures], "n_unreadable": n_unread}
        click.echo(json.dumps(values, indent=2))
        return
    times = "1 judging" if len(files) == 1 else f"{len(files)} judgings"
    show(f"{_JUDGED}, {len(judgings[0])} questions, {times}")
    _show_figures(figures)
    if n_unread:
        show(f"{n_unread} reviews do not state two ratings, and are left out.")


def _show_figures(figures: Sequence[Figure]) -> None:
    width = max((len(figure.name) for figure in figures), default=0)
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.2f}"
        known = figure.low is not None and figure.high is not None
        interval = f"  95 % {figure.low:.2f} to {figure.high:.2f}" if known else ""
        show(f"  {figure.name:<{width}}  {value:>8}{interval}  n {figure.n:,}")
