"""edge-llava eval ensemble: ScienceQA's answers together with those of a text-only model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import show, show_progress
from edge_llava.cli.eval_data import DataCommand, data_options, open_run_at, read_data, show_figures
from edge_llava.cli.eval_score import read_answers
from edge_llava.cli.options import json_option
from edge_llava.cli.remote import RemoteChoice, RemoteCommand, remote_options
from edge_llava.evaluation.benchmarks.source import ReadOptions

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark
    from edge_llava.evaluation.judging.ensemble import Decision
    from edge_llava.remote.kept_replies import KeptReplies, Question

_PLACE = click.Path(exists=True, path_type=Path)


class _EnsembleCommand(RemoteCommand, DataCommand):
    """A command with options of servers and of data."""


@click.command("ensemble", cls=_EnsembleCommand)
@click.argument("run", type=_PLACE)
@click.argument("data", nargs=-1, type=_PLACE)
@click.option("--other", required=True, metavar="FILE|URL", help="Answers of a text-only model, or its server.")
@click.option("--judge", metavar="URL", help="Also ask this server where the two disagree.")
@click.option(
    "--shots",
    default="6493,16241",
    metavar="ID,...",
    show_default=True,
    help="Ids of the solved problems that it is shown.",
)
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Directory for replies. Default: RUN."
)
@data_options(("form", "split"))
@remote_options()
@json_option
def ensemble_command(
    run: Path,
    data: tuple[Path, ...],
    other: str,
    judge: str | None,
    shots: str,
    out: Path | None,
    reading: ReadOptions,
    remote: RemoteChoice,
    as_json: bool,
) -> None:
    """Join ScienceQA's answers with those of another model.

    RUN is a run of scienceqa, or a file of answers followed by its DATA. The other model's answers come from a file, or
    from its server, which is shown two solved problems with each question. Where the two disagree, --judge asks once
    more; what it cannot decide is left to RUN.

    \b
    edge-llava eval ensemble my-run --other gpt4.jsonl
    edge-llava eval ensemble my-run --other https://api.openai.com/v1 \\
        --judge https://api.openai.com/v1 --model gpt-4
    """
    from edge_llava.evaluation.judging.ensemble import decide

    if out is None and not run.is_dir():
        raise click.UsageError("-o: name a directory for what the judge decides")
    is_served = other.startswith(("http://", "https://"))
    if is_served or judge is not None:
        remote.check()
    benchmark, ours, place = _answers_of_scienceqa(run, data, reading)
    joined = _Joined(benchmark, out or run, f"{run} and {other}", as_json)
    joined.directory.mkdir(parents=True, exist_ok=True)
    if is_served:
        theirs = _ask_other(remote, other, joined, place, [id_.strip() for id_ in shots.split(",")])
    else:
        theirs = read_answers(benchmark, _existing(other))
    decisions = decide(benchmark.items, ours, theirs)
    if judge is None:
        joined.show(decisions, with_judge=False)
    else:
        _ask_judge(remote, judge, joined, decisions)


@dataclass(frozen=True)
class _Joined:
    """What is shown of an ensemble."""

    benchmark: Benchmark
    directory: Path
    names: str
    as_json: bool

    def show(self, decisions: Sequence[Decision], *, with_judge: bool) -> None:
        """Prints its figures."""
        from edge_llava.evaluation.judging.ensemble import ensemble_figures

        figures = ensemble_figures(self.benchmark, decisions, with_judge=with_judge)
        if self.as_json:
            facts = {"benchmark": "scienceqa", "variant": self.benchmark.variant, "n": len(decisions)}
            click.echo(json.dumps(facts | {"figures": [asdict(figure) for figure in figures]}, indent=2))
        else:
            show(f"{self.names}: {self.benchmark.variant}, {len(decisions):,} questions")
            show_figures(figures)


def _ask_other(remote: RemoteChoice, url: str, joined: _Joined, place: Path, shots: Sequence[str]) -> dict[str, str]:
    """The other model's answers; what arrived is also written where not all did."""
    from edge_llava.evaluation.judging.ensemble_run import kept_texts, other_questions, write_other

    questions = other_questions(place, [str(item.question_id) for item in joined.benchmark.items], shots)
    with remote.asking(url, joined.directory) as (_, replies):
        try:
            _ask(remote, "asking the other model", questions, replies)
        finally:
            write_other(joined.directory / "other.jsonl", kept_texts(questions, replies))
        return kept_texts(questions, replies)


def _ask_judge(remote: RemoteChoice, url: str, joined: _Joined, decisions: Sequence[Decision]) -> None:
    """Has the judge decide; what it decided is also written and shown where it did not decide all."""
    from edge_llava.evaluation.judging.ensemble_run import judge_questions, kept_texts, write_decisions

    questions = judge_questions(decisions)
    with remote.asking(url, joined.directory) as (_, replies):
        try:
            _ask(remote, "asking the judge", questions, replies)
        finally:
            said = kept_texts(questions, replies)
            decided = [replace(each, judge=said.get(each.item.key)) for each in decisions]
            write_decisions(joined.directory / "ensemble.jsonl", decided, replies, f"{remote.model} at {url}")
            joined.show(decided, with_judge=True)


def _ask(remote: RemoteChoice, stage: str, questions: Mapping[str, Question], replies: KeptReplies) -> None:
    from edge_llava.evaluation.judging.ensemble_run import ask_each, estimate

    remote.tell(stage, estimate(questions, replies))
    with show_progress() as progress:
        ask_each(stage, questions, replies, remote.concurrency, progress)


def _answers_of_scienceqa(
    run: Path, data: Sequence[Path], reading: ReadOptions
) -> tuple[Benchmark, dict[str, str], Path]:
    """The questions, our answers, and the directory of ScienceQA, or its file of questions."""
    if run.is_dir():
        if reading.given:
            raise click.UsageError("a run knows how it was asked; --format and --split are for a file of answers")
        record = open_run_at(run, data)
        source = record.benchmark.source
        if record.benchmark.name != "scienceqa" or source is None:
            raise click.UsageError(f"{run} is a run of {record.benchmark.name}; ensembles are of scienceqa")
        return record.benchmark, record.answers(), source.paths[0]
    if not data:
        raise click.UsageError("name ScienceQA's directory after the file of answers")
    benchmark = read_data("scienceqa", data, reading)
    return benchmark, read_answers(benchmark, run), data[0]


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise click.UsageError(f"--other: {name} is neither a file nor an address that begins with http:// or https://")
    return path
