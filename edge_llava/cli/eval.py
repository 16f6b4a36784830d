"""edge-llava eval: measures how well a bundle answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from edge_llava.cli.display import note, show, show_progress
from edge_llava.cli.eval_ask import COMMANDS
from edge_llava.cli.eval_compare import compare_command, plan_command
from edge_llava.cli.eval_ensemble import ensemble_command
from edge_llava.cli.eval_judge import judge_command
from edge_llava.cli.eval_score import score_command
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option, open_model
from edge_llava.cli.suffixes import OutFile
from edge_llava.home.files import atomic_file

if TYPE_CHECKING:
    from edge_llava.evaluation.answering import ExamReply
    from edge_llava.evaluation.scene_scores import SceneScores
    from edge_llava.evaluation.share import Share


@click.group("eval")
def command() -> None:
    """Measure how well a bundle answers, and score files of answers."""


for benchmark_command in COMMANDS:
    command.add_command(benchmark_command)
for other_command in (judge_command, ensemble_command, score_command, compare_command, plan_command):
    command.add_command(other_command)


@command.command("scenes", cls=EngineCommand)
@bundle_option
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, metavar="S", show_default=True, help="Same seed, same exam."
)
@click.option(
    "-n", "--n", type=click.IntRange(1), default=1000, metavar="N", show_default=True, help="Number of pictures."
)
@click.option(
    "--failures",
    type=OutFile(".jsonl", what="wrong answers"),
    metavar="FILE.jsonl",
    help="Write every wrong answer to this file.",
)
@engine_options()
@json_option
def scenes_command(
    bundle: str | None,
    seed: int,
    n: int,
    failures: Path | None,
    engines: EngineChoice,
    as_json: bool,
) -> None:
    """Ask about drawn pictures that were never used in training.

    Every fact about them is known. Each picture gets one question of every kind that it allows, answered greedily; only
    the exact word or phrase counts as right. The same questions are also asked about other pictures: a model that uses
    the image should drop to chance here. Descriptions are scored by the objects they mention. A small bundle is fastest
    with -t 1.

    \b
    edge-llava eval scenes -m my-bundle
    edge-llava eval scenes --seed 7 --n 200 --failures wrong.jsonl
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.evaluation.bundle_answerer import BundleAnswerer
    from edge_llava.evaluation.scene_scores import evaluate_scenes

    with _new_file(failures) if failures else nullcontext() as file:
        opened = open_bundle(bundle)
        options = engines.options(opened)
        with (
            open_model(opened, options, force=engines.load_anyway, may_move=engines.leaves_blocks_open) as model,
            show_progress() as progress,
        ):
            scores = evaluate_scenes(BundleAnswerer(model), seed=seed, n=n, progress=progress)
        # printed before the file is written, so that a full disk does not cost the scores
        if as_json:
            exam = {"seed": seed, "visual_tokens": engines.visual_tokens, "bundle": str(opened.path)}
            if engines.max_tiles is not None:
                exam["max_tiles"] = engines.max_tiles
            click.echo(json.dumps(scores.to_dict() | exam, indent=2))
        else:
            show("\n".join(_format_table(scores, opened.name, seed)))
        if file is not None:
            file.writelines(json.dumps(_failure(reply)).encode() + b"\n" for reply in scores.wrong)
    if failures:
        note(f"{len(scores.wrong)} wrong answers: {failures}")


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes its name when the block is done.

    It is opened at once, so that a path that cannot be written is reported before the work.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(atomic_file(path))
        except OSError as error:
            raise click.UsageError(f"--failures: {path} cannot be written: {error.strerror}") from error
        yield file


def _failure(reply: ExamReply) -> dict[str, str | int]:
    return {
        "picture": reply.sheet.picture,
        "scene_seed": reply.sheet.scene.seed,
        "kind": reply.question.kind,
        "question": reply.question.text,
        "expected": reply.question.answer,
        "answered": reply.text,
    }


def _format_table(scores: SceneScores, bundle: str, seed: int) -> Iterable[str]:
    """The scores as lines of at most 80 columns."""
    from edge_llava.evaluation.share import add

    right, shuffled, guessing = scores.accuracy, scores.shuffled or {}, scores.guessing
    pictures = "1 held-out picture" if scores.n == 1 else f"{scores.n:,} held-out pictures"
    yield f"{bundle}: {pictures} of seed {seed}, {scores.seconds:.0f} s"
    yield ""
    yield f"{'':<12}{'right':>9}{'95 % interval':>19}{'asked':>8}{'other picture':>16}{'blind guess':>14}"
    for kind in right:
        yield _row(kind, right[kind], shuffled.get(kind), guessing[kind])
    overall_shuffled = add(shuffled.values()) if shuffled else None
    yield _row("overall", add(right.values()), overall_shuffled, add(guessing.values()))
    yield ""
    yield f"described: {_percent(scores.precision)} of {scores.precision.n:,} objects mentioned are there (precision)"
    yield f"           {_percent(scores.recall)} of {scores.recall.n:,} objects there are mentioned (recall)"


def _row(name: str, right: Share, shuffled: Share | None, guessing: Share) -> str:
    low, high = right.interval
    interval = f"{100 * low:.1f} to {100 * high:.1f} %" if right.n else "-"
    other = "-" if shuffled is None else _percent(shuffled).strip()
    guess = _percent(guessing).strip()
    return f"{name:<12}{_percent(right):>9}{interval:>19}{right.n:>8,}{other:>16}{guess:>14}"


def _percent(share: Share) -> str:
    return f"{'-' if share.value is None else f'{100 * share.value:.1f} %':>7}"
