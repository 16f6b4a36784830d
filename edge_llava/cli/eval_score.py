"""edge-llava eval score: what a run's answers, or those in a file, are worth. No engine is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import note, show
from edge_llava.cli.eval_data import DataCommand, data_options, open_run_at, read_data, show_figures, show_scores
from edge_llava.cli.options import json_option
from edge_llava.cli.suffixes import OutFile
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.source import ReadOptions
from edge_llava.home.json_files import write_text

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark
    from edge_llava.evaluation.benchmarks.judged import Review
    from edge_llava.evaluation.benchmarks.scoring import Scores


@click.command("score", cls=DataCommand)
@click.argument("places", nargs=-1, metavar="[RUN] [DATA]...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--answers",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Answers, as LLaVA's scripts write them, or a judge's reviews: again for several judgings.",
)
@click.option("--benchmark", type=click.Choice(list(KINDS)), metavar="NAME", help="Of --answers.")
@data_options()
@click.option("--reread", is_flag=True, help="ScienceQA's results: read the texts anew, not what was read of them.")
@click.option(
    "--wrong", type=OutFile(".jsonl", what="wrong answers"), metavar="FILE.jsonl", help="Write what was not right."
)
@click.option(
    "--upload",
    type=OutFile(".json", what="answers for a server"),
    metavar="FILE.json",
    help="Write what a server takes, where labels are secret.",
)
@json_option
def score_command(
    places: tuple[Path, ...],
    answers: tuple[Path, ...],
    benchmark: str | None,
    reading: ReadOptions,
    reread: bool,
    wrong: Path | None,
    upload: Path | None,
    as_json: bool,
) -> None:
    """Score a run, or a file of answers to a published benchmark.

    RUN is a directory that 'edge-llava eval' made; name DATA after it only if its files have moved. For --answers, DATA
    is the benchmark's own file, files or directory, as its authors publish it. Answers are joined by id; what is
    missing counts as wrong.

    \b
    edge-llava eval score my-run
    edge-llava eval score --answers a.jsonl --benchmark pope coco_pope_*.json
    edge-llava eval score --answers a.jsonl --benchmark scienceqa ScienceQA/
    edge-llava eval score --answers v.jsonl --benchmark textvqa val.json q.jsonl
    edge-llava eval score --answers review.jsonl --benchmark llava-bench
    """
    if not answers:
        _score_run(places, benchmark, reading, wrong, upload, reread=reread, as_json=as_json)
        return
    if benchmark is None:
        raise click.UsageError("--benchmark: name the benchmark that the answers are of")
    if benchmark in ("llava-bench", "mm-vet"):
        if wrong is not None or upload is not None or reread:
            raise click.UsageError("--wrong, --upload and --reread are for answers; these files are a judge's")
        _score_reviews(benchmark, answers, places, reading, as_json=as_json)
        return
    if len(answers) != 1:
        raise click.UsageError("--answers is one file; several are for a judge's reviews")
    if not places:
        raise click.UsageError(f"name the data of {benchmark}: its authors' files or directory")
    from edge_llava.evaluation.benchmarks.scoring import score

    read = read_data(benchmark, places, reading)
    texts = read_answers(read, answers[0], reread=reread)
    scores = score(read, texts)
    if wrong is not None and not scores.figures:
        raise click.UsageError("--wrong: these questions have no labels")
    _write_wrong(scores, wrong)
    if upload is not None:
        lines = read.upload(texts)
        if lines is None:
            raise click.UsageError(
                f"--upload: the labels of {benchmark}, {read.variant}, are public, so there is nothing to upload"
            )
        write_text(upload, json.dumps(lines) + "\n")
        note(f"{len(lines):,} answers for the server: {upload}")
    _print(answers[0].name, scores, as_json=as_json)


def read_answers(benchmark: Benchmark, path: Path, *, reread: bool = False) -> dict[str, str]:
    """As `read_answers_of`; what cannot be read anew is a mistake of the user's."""
    from edge_llava.evaluation.benchmarks.answer_files import read_answers_of

    try:
        return read_answers_of(benchmark, path, reread=reread)
    except ValueError as error:
        raise click.UsageError(f"--reread: {error}") from error


def _score_run(
    places: Sequence[Path],
    benchmark: str | None,
    reading: ReadOptions,
    wrong: Path | None,
    upload: Path | None,
    *,
    reread: bool,
    as_json: bool,
) -> None:
    if not places:
        raise click.UsageError("name a run, or a file of --answers with its --benchmark and data")
    if benchmark is not None or reading.given or reread:
        raise click.UsageError("a run knows its benchmark and how it was asked; other options are for --answers")
    if upload is not None:
        raise click.UsageError(f"--upload is for --answers; a run's is {places[0] / 'upload.json'}")
    record = open_run_at(places[0], places[1:])
    scores = record.scores()
    record.write(scores)
    _write_wrong(scores, wrong)
    _print(record.name, scores, as_json=as_json)


def _write_wrong(scores: Scores, wrong: Path | None) -> None:
    if wrong is not None:
        lines = scores.wrong()
        write_text(wrong, "".join(f"{json.dumps(line)}\n" for line in lines))
        note(f"{len(lines):,} answers that are not right: {wrong}")


def _print(whose: str, scores: Scores, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(scores.to_dict(), indent=2))
    else:
        show_scores(whose, scores)


def _score_reviews(
    name: str, files: Sequence[Path], data: Sequence[Path], reading: ReadOptions, *, as_json: bool
) -> None:
    from dataclasses import asdict

    from edge_llava.evaluation.benchmarks.reviews import read_grades, read_reviews, relative_scores
    from edge_llava.evaluation.run_record import find_judged

    judged = find_judged(read_data(name, data, reading)) if data else None
    judgings: list[list[Review]]
    if judged is None:
        if name == "mm-vet":
            raise click.UsageError("name mm-vet.json, which says what each question needs")
        judgings = [read_reviews(path) for path in files]
        figures = relative_scores(judgings)
    else:
        judgings = [
            judging
            for path in files
            for judging in (read_grades(path) if path.suffix == ".json" else [read_reviews(path, judged.read_reply)])
        ]
        figures = judged.judged_figures(judgings, judged.items)
    n_unread = sum(review.ratings is None for reviews in judgings for review in reviews)
    if as_json:
        values = {"benchmark": name, "figures": [asdict(figure) for figure in figures], "n_unreadable": n_unread}
        click.echo(json.dumps(values, indent=2))
        return
    times = "1 judging" if len(judgings) == 1 else f"{len(judgings)} judgings"
    show(f"{name}, {len(judgings[0])} questions, {times}")
    show_figures(figures)
    if n_unread:
        show(f"{n_unread} reviews do not state two ratings, and are left out.")
