"""edge-llava eval judge and ensemble: what a language model on a server says of a run's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import note, show, show_progress
from edge_llava.cli.eval_data import DataCommand, data_options, open_run_at, read_data, show_figures, show_scores
from edge_llava.cli.eval_score import read_answers
from edge_llava.cli.options import json_option
from edge_llava.cli.remote import Finite, open_client, remote_options
from edge_llava.evaluation.benchmarks.source import ReadOptions
from edge_llava.remote.budget import Budget, Estimate, Prices

if TYPE_CHECKING:
    from edge_llava.evaluation.benchmarks.benchmark import Benchmark
    from edge_llava.evaluation.judging.ensemble import Decision
    from edge_llava.remote.chat_client import ChatClient
    from edge_llava.remote.kept_replies import KeptReplies, Question

_MAX_COST = click.option(
    "--max-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Stop once the replies have cost this much.",
)
_PLACE = click.Path(exists=True, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_REPLIES_NAME = "replies.jsonl"


@click.command("judge")
@click.argument("run", type=_PLACE)
@click.argument("data", nargs=-1, type=_PLACE)
@click.option("--judge", required=True, metavar="URL", help="An OpenAI-compatible address.")
@click.option("--model", metavar="NAME", help="Model that the judge's server should run.")
@click.option("--rule", type=_FILE, metavar="rule.json", help="LLaVA-Bench: LLaVA's rules. Default: our own wording.")
@click.option("--judge-prompt", type=_FILE, metavar="FILE.txt", help="MM-Vet: instructions and solved examples.")
@click.option(
    "--judgings", type=click.IntRange(1, 20), default=1, show_default=True, help="How many times each answer is judged."
)
@click.option("--swap", is_flag=True, help="LLaVA-Bench: judge each answer in the first place as well.")
@click.option("--temperature", type=Finite(0), help="Default: as published, 0.2 or 0.")
@remote_options(concurrency=4)
@_MAX_COST
@json_option
def judge_command(
    run: Path,
    data: tuple[Path, ...],
    judge: str,
    model: str | None,
    rule: Path | None,
    judge_prompt: Path | None,
    judgings: int,
    swap: bool,
    temperature: float | None,
    concurrency: int,
    timeout: float,
    key_env: str | None,
    price_in: float | None,
    price_out: float | None,
    max_cost: float | None,
    as_json: bool,
) -> None:
    """Have a language model judge a run of llava-bench or mm-vet.

    RUN is a directory that 'edge-llava eval' made; name DATA after it only if its files have moved. Replies are kept:
    the same request is never paid twice, and the same command goes on where it stopped. Scores compare with published
    ones only if judge and wording are the published ones (gpt-4-0314, and gpt-4-0613 for MM-Vet).

    \b
    edge-llava eval judge my-run --judge http://localhost:8080/v1 --model NAME
    edge-llava eval judge my-run --judge https://api.openai.com/v1 \\
        --model gpt-4 --judgings 3 --price-in 30 --price-out 60 --max-cost 5
    """
    from edge_llava.errors import DataError
    from edge_llava.evaluation.judging.judge import Judge, JudgeOptions
    from edge_llava.evaluation.judging.wording import name_wording, read_wording
    from edge_llava.evaluation.run_record import find_judged

    budget = _budget(price_in, price_out, max_cost)
    if model is None:
        raise click.UsageError("--model: name the model that the judge's server should run")
    record = open_run_at(run, data)
    benchmark = find_judged(record.benchmark)
    if benchmark is None:
        raise click.UsageError(f"{run} is a run of {record.benchmark.name}, whose answers need no judge")
    if benchmark.name != "llava-bench" and (rule or swap):
        raise click.UsageError("--rule and --swap are for llava-bench")
    if benchmark.name != "mm-vet" and judge_prompt:
        raise click.UsageError("--judge-prompt is for mm-vet")
    answers = list(record.answered().values())
    if not answers:
        raise DataError(f"{run} has no answers yet. Ask with 'edge-llava eval {benchmark.name} -o {run}' first.")
    wording = read_wording(benchmark, rule or judge_prompt)
    named = name_wording(rule or judge_prompt, wording)
    options = JudgeOptions(judgings, swap, temperature, wording, named, concurrency)
    with _asking(judge, model, key_env, timeout, run, budget) as (client, replies):
        if model == record.settings.get("bundle"):
            note(f"edge-llava: {model} judges its own answers; such scores say little.")
        judging = Judge(benchmark, replies, client.name, options)
        _tell(f"judging {len(answers):,} answers", judging.estimate(answers), budget.prices)
        try:
            with show_progress() as progress:
                judging.judge(answers, run, progress)
        finally:
            scores = record.scores()
            record.write(scores)
            spent = budget.prices.cost(replies.prompt_tokens, replies.completion_tokens)
            tokens = replies.prompt_tokens, replies.completion_tokens
            if as_json:
                facts = {"judge": client.name, "wording": named, "cost": spent}
                facts |= {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
                click.echo(json.dumps(scores.to_dict() | facts, indent=2))
            else:
                show_scores(str(run), scores)
                if scores.figures:
                    places = "in both places" if swap else "references first"
                    show(f"judged by {client.name}, {named}, {places}")
                note(_say_tokens(*tokens, spent))


@click.command("ensemble", cls=DataCommand)
@click.argument("run", type=_PLACE)
@click.argument("data", nargs=-1, type=_PLACE)
@click.option("--other", required=True, metavar="FILE|URL", help="Answers of a text-only model, or its server.")
@click.option("--judge", metavar="URL", help="Also ask this server where the two disagree.")
@click.option("--model", metavar="NAME", help="Model that the servers should run.")
@click.option("--shots", default="6493,16241", show_default=True, help="Ids of the solved problems that it is shown.")
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Directory for replies. Default: RUN."
)
@data_options(("form", "split"))
@remote_options(concurrency=4)
@_MAX_COST
@json_option
def ensemble_command(
    run: Path,
    data: tuple[Path, ...],
    other: str,
    judge: str | None,
    model: str | None,
    shots: str,
    out: Path | None,
    reading: ReadOptions,
    concurrency: int,
    timeout: float,
    key_env: str | None,
    price_in: float | None,
    price_out: float | None,
    max_cost: float | None,
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
    if model is None and (is_served or judge is not None):
        raise click.UsageError("--model: name the model that the servers should run")
    budget = _budget(price_in, price_out, max_cost)
    benchmark, ours, place = _answers_of_scienceqa(run, data, reading)
    joined = _Joined(benchmark, out or run, f"{run} and {other}", as_json)
    joined.directory.mkdir(parents=True, exist_ok=True)
    servers = _Servers(model, key_env, timeout, concurrency, budget, joined.directory)
    if is_served:
        theirs = _ask_other(servers, other, benchmark, place, [id_.strip() for id_ in shots.split(",")])
    else:
        theirs = read_answers(benchmark, _existing(other))
    decisions = decide(benchmark.items, ours, theirs)
    if judge is None:
        joined.show(decisions, with_judge=False)
    else:
        _ask_judge(servers, judge, decisions, joined)


@dataclass(frozen=True)
class _Servers:
    """How the servers of an ensemble are asked, and where their replies are kept."""

    model: str | None
    key_env: str | None
    timeout: float
    concurrency: int
    budget: Budget
    directory: Path

    @contextmanager
    def asking(self, url: str) -> Iterator[KeptReplies]:
        """The replies of one of them."""
        with _asking(url, self.model, self.key_env, self.timeout, self.directory, self.budget) as (_, replies):
            yield replies
            tokens = replies.prompt_tokens, replies.completion_tokens
            note(_say_tokens(*tokens, self.budget.prices.cost(*tokens)))

    def ask(self, stage: str, questions: Mapping[str, Question], replies: KeptReplies) -> None:
        """Asks what has no reply yet."""
        from edge_llava.evaluation.judging.ensemble_run import ask_each, estimate

        _tell(stage, estimate(questions, replies), self.budget.prices)
        with show_progress() as progress:
            ask_each(stage, questions, replies, self.concurrency, progress)


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


def _ask_other(servers: _Servers, url: str, benchmark: Benchmark, place: Path, shots: Sequence[str]) -> dict[str, str]:
    """The other model's answers; what arrived is also written where not all did."""
    from edge_llava.evaluation.judging.ensemble_run import kept_texts, other_questions, write_other

    questions = other_questions(place, [str(item.question_id) for item in benchmark.items], shots)
    with servers.asking(url) as replies:
        try:
            servers.ask("asking the other model", questions, replies)
        finally:
            write_other(servers.directory / "other.jsonl", kept_texts(questions, replies))
        return kept_texts(questions, replies)


def _ask_judge(servers: _Servers, url: str, decisions: Sequence[Decision], joined: _Joined) -> None:
    """Has the judge decide; what it decided is also written and shown where it did not decide all."""
    from edge_llava.evaluation.judging.ensemble_run import judge_questions, kept_texts, write_decisions

    questions = judge_questions(decisions)
    with servers.asking(url) as replies:
        try:
            servers.ask("asking the judge", questions, replies)
        finally:
            said = kept_texts(questions, replies)
            decided = [replace(each, judge=said.get(each.item.key)) for each in decisions]
            write_decisions(joined.directory / "ensemble.jsonl", decided, replies, f"{servers.model} at {url}")
            joined.show(decided, with_judge=True)


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


def _budget(price_in: float | None, price_out: float | None, max_cost: float | None) -> Budget:
    prices = Prices(price_in, price_out)
    if max_cost is not None and (price_in is None or price_out is None):
        raise click.UsageError("--max-cost needs --price-in and --price-out")
    return Budget(prices, max_cost)


@contextmanager
def _asking(
    url: str, model: str | None, key_env: str | None, timeout: float, directory: Path, budget: Budget
) -> Iterator[tuple[ChatClient, KeptReplies]]:
    """A client, and the replies that it keeps in a directory."""
    from edge_llava.remote.kept_replies import KeptReplies

    with (
        open_client(url, model, key_env, timeout) as client,
        KeptReplies(directory / _REPLIES_NAME, client, budget) as replies,
    ):
        yield client, replies


def _tell(what: str, estimate: Estimate, prices: Prices) -> None:
    """Says what is still to be asked, before the first request."""
    if not estimate.n_requests:
        note(f"{what}: every reply is kept already.")
        return
    cost = prices.cost(estimate.prompt_tokens, estimate.completion_tokens)
    price = "" if cost is None else f", which cost about {cost:.2f}"
    note(
        f"{what}: {estimate.n_requests:,} requests, about {estimate.prompt_tokens:,} prompt and "
        f"{estimate.completion_tokens:,} completion tokens{price}."
    )


def _say_tokens(n_prompt: int, n_completion: int, cost: float | None) -> str:
    price = "" if cost is None else f", cost {cost:.4f}"
    return f"tokens of all replies: {n_prompt:,} prompt, {n_completion:,} completion{price}"
