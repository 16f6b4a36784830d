"""edge-llava eval score, compare and plan: what answer files are worth, whoever wrote them. No engine is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import note, show
from edge_llava.cli.options import json_option
from edge_llava.home.files import write_text

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure
    from edge_llava.evaluation.benchmarks.scoring import Scores

_JUDGED = "llava-bench"
_NAMES = ("scienceqa", "pope", "textvqa", "vqav2", "vizwiz", "gqa", "mme", "mmbench", "seed", "questions")

_data_argument = click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
_reread_option = click.option(
    "--reread", is_flag=True, help="ScienceQA's result files: read the answers' texts anew, not what was read of them."
)


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
@_reread_option
@click.option(
    "--wrong", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.jsonl", help="Write what was not right."
)
@json_option
def score_command(
    answers: tuple[Path, ...],
    benchmark: str,
    data: tuple[Path, ...],
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
        _score_reviews(answers, data, as_json=as_json)
        return
    if len(answers) != 1:
        raise click.UsageError("--answers is one file; several are for judgings of llava-bench")
    if not data:
        raise click.UsageError(f"name the data of {benchmark}: its authors' files or directory")
    scores = _score(_read(benchmark, data), answers[0], reread=reread)
    if wrong is not None:
        lines = [json.dumps(_line(scores, index)) for index, each in enumerate(scores.marked) if each.mark.points < 1]
        write_text(wrong, "".join(f"{line}\n" for line in lines))
        note(f"{len(lines):,} answers that are not right: {wrong}")
    if as_json:
        click.echo(json.dumps(scores.to_dict(), indent=2))
        return
    show_scores(answers[0].name, scores)


@click.command("compare")
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--benchmark", required=True, type=click.Choice(_NAMES), metavar="NAME", help="Which one.")
@_data_argument
@click.option("--margin", type=click.FloatRange(0, 100, min_open=True), metavar="POINTS", help="Test equivalence, too.")
@_reread_option
@json_option
def compare_command(
    a: Path, b: Path, benchmark: str, data: tuple[Path, ...], margin: float | None, reread: bool, as_json: bool
) -> None:
    """Compare two files of answers question by question.

    Says what changed from A to B, and whether that may be chance: McNemar's exact test. With --margin it says whether
    the two are shown to be equally good; that no difference is found does not show it.

    \b
    edge-llava eval compare f16.jsonl q4.jsonl --benchmark pope coco_pope_*.json
    """
    from edge_llava.evaluation.comparison import compare

    read = _read(benchmark, data)
    first, second = (_score(read, path, reread=reread) for path in (a, b))
    rows = [[(each.mark.points >= 0.5, each.text or "") for each in scores.marked] for scores in (first, second)]
    found = compare(*rows)
    equivalent = None if margin is None else found.is_equivalent(margin / 100)
    if as_json:
        low, high = found.interval()
        values: dict[str, Any] = {
            "n": found.n, "lost": found.lost, "gained": found.gained, "changed_texts": found.n_changed,
            "difference": found.difference, "standard_error": found.error, "low": low, "high": high,
            "p_value": found.p_value, "margin_points": margin, "equivalent": equivalent,
        }  # fmt: skip
        click.echo(json.dumps(values, indent=2))
        return
    show(found.describe(a.stem, b.stem))
    show(f"{found.n_changed:,} of {found.n:,} texts differ.")
    if equivalent is not None:
        verdict = "are" if equivalent else "are not shown to be"
        show(f"They {verdict} equally good within {margin:g} points (90 % interval).")
    for name, scores in ((a.name, first), (b.name, second)):
        show(f"{name}:")
        _show_figures(scores.figures[:1])


@click.command("plan")
@click.option(
    "--detect", required=True, type=click.FloatRange(0, 100, min_open=True), metavar="POINTS", help="To be seen."
)
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

    With a power of 80 %, at a level of 5 %. `eval compare` counts the answers that differ: on the demo, 1.3 percent
    between F16 and Q3_K_M, and 2.7 between F16 and Q2_K.
    """
    from edge_llava.evaluation.comparison import questions_needed

    if detect > discordant:
        raise click.UsageError(f"--detect {detect:g} is more than the answers that differ, --discordant {discordant:g}")
    n = questions_needed(detect / 100, discordant / 100)
    if as_json:
        click.echo(json.dumps({"questions": n, "detect_points": detect, "discordant_percent": discordant}, indent=2))
        return
    show(f"{n:,} questions show a difference of {detect:g} points where {discordant:g} % of the answers differ.")


def show_scores(whose: str, scores: Scores) -> None:
    """Prints what answers are worth, as lines of at most 80 columns."""
    show(f"{whose}: {scores.benchmark} ({scores.variant}), {scores.n:,} questions")
    _show_figures(scores.figures)
    if scores.n_missing:
        show(f"{scores.n_missing:,} questions have no answer, and count as wrong.")
    if scores.n_unreadable:
        show(f"{scores.n_unreadable:,} answers name none of those that there are.")


def _read(name: str, data: Sequence[Path]) -> Benchmark:
    from edge_llava.evaluation.benchmarks.registry import read_benchmark

    return read_benchmark(name, data)


def _score(benchmark: Benchmark, path: Path, *, reread: bool) -> Scores:
    from edge_llava.evaluation.benchmarks.answers import join_answers, read_answers
    from edge_llava.evaluation.benchmarks.scienceqa import read_results
    from edge_llava.evaluation.benchmarks.scoring import score

    answers = read_results(path, reread=reread) if benchmark.name == "scienceqa" else None
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
        show(f"{n_unread} reviews state no two ratings: left out.")


def _show_figures(figures: Sequence[Figure]) -> None:
    width = max((len(figure.name) for figure in figures), default=0)
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.2f}"
        known = figure.low is not None and figure.high is not None
        interval = f"  95 % {figure.low:.2f} to {figure.high:.2f}" if known else ""
        show(f"  {figure.name:<{width}}  {value:>8}{interval}  n {figure.n:,}")


def _line(scores: Scores, index: int) -> dict[str, Any]:
    each = scores.marked[index]
    return {
        "question_id": each.item.question_id,
        "image": each.item.image,
        "prompt": each.item.text,
        "text": each.text,
        "read": each.mark.reading,
        "points": each.mark.points,
        "label": each.item.label,
    }
