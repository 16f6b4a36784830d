"""edge-llava eval judge: what a language model on a server says of a run's answers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_llava.cli.display import note, show, show_progress
from edge_llava.cli.eval_data import open_run_at, show_scores
from edge_llava.cli.options import json_option
from edge_llava.cli.remote import Finite, RemoteChoice, RemoteCommand, remote_options

_PLACE = click.Path(exists=True, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("judge", cls=RemoteCommand)
@click.argument("run", type=_PLACE)
@click.argument("data", nargs=-1, type=_PLACE)
@click.option("--judge", required=True, metavar="URL", help="An OpenAI-compatible address.")
@click.option("--rule", type=_FILE, metavar="rule.json", help="LLaVA-Bench: LLaVA's rules. Default: our own wording.")
@click.option("--judge-prompt", type=_FILE, metavar="FILE.txt", help="MM-Vet: instructions and solved examples.")
@click.option(
    "--judgings", type=click.IntRange(1, 20), default=1, show_default=True, help="How many times each answer is judged."
)
@click.option("--swap", is_flag=True, help="LLaVA-Bench: judge each answer in the first place as well.")
@click.option("--temperature", type=Finite(0), help="Default: as published, 0.2 or 0.")
@remote_options()
@json_option
def judge_command(
    run: Path,
    data: tuple[Path, ...],
    judge: str,
    rule: Path | None,
    judge_prompt: Path | None,
    judgings: int,
    swap: bool,
    temperature: float | None,
    remote: RemoteChoice,
    as_json: bool,
) -> None:
    """Have a language model judge a run of llava-bench or mm-vet.

    RUN is a directory that 'edge-llava eval' made; name DATA after it only if its files have moved. Replies are kept:
    the same request is never paid for twice, and the same command resumes. Scores are comparable with published ones
    only if judge and wording are the published ones (gpt-4-0314, and gpt-4-0613 for MM-Vet).

    \b
    edge-llava eval judge my-run --judge http://localhost:8080/v1 --model NAME
    edge-llava eval judge my-run --judge https://api.openai.com/v1 \\
        --model gpt-4 --judgings 3 --price-in 30 --price-out 60 --max-cost 5
    """
    from edge_llava.errors import DataError
    from edge_llava.evaluation.judging.judge import Judge, JudgeOptions
    from edge_llava.evaluation.judging.wording import name_wording, read_wording
    from edge_llava.evaluation.run_record import find_judged

    remote.check()
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
        raise DataError(f"{run} contains no answers yet. First run: edge-llava eval {benchmark.name} DATA -o {run}")
    wording = read_wording(benchmark, rule or judge_prompt)
    named = name_wording(rule or judge_prompt, wording)
    options = JudgeOptions(judgings, swap, temperature, wording, named, remote.concurrency)
    with remote.asking(judge, run) as (client, replies):
        if remote.model == record.settings.get("bundle"):
            note(f"edge-llava: {remote.model} judges its own answers; such scores say little.")
        judging = Judge(benchmark, replies, client.name, options)
        remote.tell(f"judging {len(answers):,} answers", judging.estimate(answers))
        try:
            with show_progress() as progress:
                judging.judge(answers, run, progress)
        finally:
            scores = record.scores()
            record.write(scores)
            if as_json:
                n_prompt, n_completion = replies.prompt_tokens, replies.completion_tokens
                facts = {"judge": client.name, "wording": named, "cost": remote.prices.cost(n_prompt, n_completion)}
                facts |= {"prompt_tokens": n_prompt, "completion_tokens": n_completion}
                click.echo(json.dumps(scores.to_dict() | facts, indent=2))
            else:
                show_scores(str(run), scores)
                if scores.figures:
                    places = "in both places" if swap else "references first"
                    show(f"judged by {client.name}, {named}, {places}")
