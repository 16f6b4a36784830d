"""edge-llava data: turns images with captions and boxes into conversations for training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.cli.data_scienceqa import scienceqa_command
from edge_llava.cli.display import note, show, show_progress, show_result
from edge_llava.cli.options import json_option
from edge_llava.cli.printable import printable_line
from edge_llava.cli.remote import Finite, RemoteChoice, RemoteCommand, remote_options
from edge_llava.cli.suffixes import OutFile

if TYPE_CHECKING:
    from edge_llava.scenes.scene import Split
    from edge_llava.training.instructions.generation import GenerationReport
    from edge_llava.training.instructions.statistics import Distribution, Statistics
    from edge_llava.training.instructions.teacher import Teacher

_SCENES = "scenes"  # the teacher that needs no address
_MAX_SHOWN = 5  # faults of images that were left out
_SEED = click.IntRange(0, 2**31 - 1)
_out_option = click.option(
    "-o",
    "--out",
    required=True,
    type=OutFile(".json", ".jsonl", what="conversations"),
    metavar="FILE.json",
    help="File to write; FILE.jsonl has one conversation per line.",
)


@click.group("data")
def command() -> None:
    """Make instruction data from images, and inspect it.

    \b
    edge-llava data scenes my-scenes --n 1000
    edge-llava data captions my-scenes/annotations.jsonl -o captions.json
    edge-llava data instruct my-scenes/annotations.jsonl \\
        --teacher scenes -o llava.json
    edge-llava data stats llava.json --images my-scenes --sheet sheet.png
    """


command.add_command(scienceqa_command)


@command.command("scenes")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--split", type=click.Choice(["train", "held-out"]), default="train", show_default=True, help="Which scenes."
)
@click.option("--n", type=click.IntRange(1), default=1000, show_default=True, help="Number of scenes.")
@click.option("--seed", type=_SEED, default=0, show_default=True, help="A different seed gives different scenes.")
@click.option(
    "--side", type=click.IntRange(16, 4096), default=224, show_default=True, help="Width and height in pixels."
)
@json_option
def scenes_command(directory: Path, split: Split, n: int, seed: int, side: int, as_json: bool) -> None:
    """Draw simple shapes, with every fact about them known.

    Writes images/*.jpg and annotations.jsonl (captions, boxes and facts) to DIRECTORY. The two splits share no scene.

    \b
    edge-llava data scenes my-scenes --n 1000
    edge-llava data scenes my-test --split held-out --n 100
    """
    from edge_llava.training.instructions.scene_files import ANNOTATIONS_NAME, write_scenes

    with show_progress() as progress:
        write_scenes(directory, split, n, seed, side, progress)
    annotations = str(directory / ANNOTATIONS_NAME)
    show_result(json.dumps({"annotations": annotations, "n": n}) if as_json else annotations)


@command.command("instruct", cls=RemoteCommand)
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@_out_option
@click.option("--teacher", required=True, metavar="URL|scenes", help="An OpenAI-compatible address, or 'scenes'.")
@click.option(
    "--types",
    default="conversation,detail,reasoning",
    metavar="KIND,...",
    show_default=True,
    help="Kinds of replies for each image.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only the first N images.")
@click.option(
    "--instances", type=click.Path(dir_okay=False, path_type=Path), help="COCO's instances file, for the boxes."
)
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), help="Where the images are.")
@click.option("--skip-faulty", is_flag=True, help="Leave out images with faulty annotations.")
@click.option("--temperature", type=Finite(0), help="Default: the server's.")
@remote_options(without="max_cost")
@click.option("--seed", type=_SEED, default=0, show_default=True, help="Seed of all random choices.")
@click.option("--force", is_flag=True, help="Start over: replace OUT and discard the stored replies.")
@json_option
def instruct_command(
    source: Path,
    out: Path,
    teacher: str,
    types: str,
    limit: int | None,
    instances: Path | None,
    images: Path | None,
    skip_faulty: bool,
    temperature: float | None,
    remote: RemoteChoice,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Ask a teacher for conversations about images.

    It writes descriptions and reasoning, too. SOURCE is our JSONL (see docs/instruction-data.md) or COCO's captions
    file. OUT is LLaVA's conversation JSON. Replies are stored as they arrive: after an interruption the same command
    resumes.

    \b
    edge-llava data instruct my-scenes/annotations.jsonl \\
        --teacher scenes -o llava.json
    edge-llava data instruct captions_val2017.json \\
        --instances instances_val2017.json --images val2017 --limit 10 \\
        --teacher https://api.openai.com/v1 --model gpt-4o -o llava.json
    """
    from edge_llava.training.instructions.annotation_files import read_annotations
    from edge_llava.training.instructions.generation import GenerationOptions, generate

    options = GenerationOptions(_parse_types(types), remote.concurrency, seed, force)
    annotations = read_annotations(source, images, instances, skip_faulty=skip_faulty)
    _print_faults(annotations.faults)
    chosen = annotations.images[:limit]
    with (
        _open_teacher(teacher, remote, temperature, seed) as opened,
        _explain_how_to_resume(out),
        show_progress() as progress,
    ):
        report = generate(chosen, opened, out, options, progress)
    cost = remote.prices.cost(report.prompt_tokens, report.completion_tokens)
    if as_json:
        facts = dataclasses.asdict(report) | {"out": str(out), "rejected_path": str(report.rejected_path), "cost": cost}
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    _print_report(report, cost)
    show_result(out)


@command.command("captions")
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@_out_option
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), help="Where the images are.")
@click.option("--skip-faulty", is_flag=True, help="Leave out images with faulty annotations.")
@click.option("--seed", type=_SEED, default=0, show_default=True, help="Seed of the choice of captions.")
@json_option
def captions_command(source: Path, out: Path, images: Path | None, skip_faulty: bool, seed: int, as_json: bool) -> None:
    """Pair short requests with captions, for `train align`.

    No teacher is needed. SOURCE is the same as for 'data instruct'.

    \b
    edge-llava data captions my-scenes/annotations.jsonl -o captions.json
    """
    from edge_llava.training.instructions.annotation_files import read_annotations
    from edge_llava.training.instructions.caption_pairs import pair_captions
    from edge_llava.training.instructions.conversations import write_conversations

    annotations = read_annotations(source, images, skip_faulty=skip_faulty)
    _print_faults(annotations.faults)
    write_conversations(out, pair_captions(annotations.images, seed), seed)
    show_result(json.dumps({"out": str(out), "n": len(annotations.images)}) if as_json else out)


@command.command("stats")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the images are; all must exist. Default: next to FILE, unchecked.",
)
@click.option(
    "--sheet", type=OutFile(".png", what="a contact sheet"), metavar="FILE.png", help="Write a contact sheet."
)
@click.option("--seed", type=_SEED, default=0, show_default=True, help="Seed of the samples on the sheet.")
@json_option
def stats_command(file: Path, images: Path | None, sheet: Path | None, seed: int, as_json: bool) -> None:
    """Summarize a file of conversations, and show samples of it.

    FILE is LLaVA's conversation JSON, or JSONL if its suffix says so.

    \b
    edge-llava data stats llava.json
    edge-llava data stats llava.json --images val2017 --sheet sheet.png
    """
    from edge_llava.training.instructions.contact_sheet import write_contact_sheet
    from edge_llava.training.instructions.conversations import read_conversations
    from edge_llava.training.instructions.statistics import summarize

    conversations = read_conversations(file, images)
    statistics = summarize(conversations)
    if sheet is not None:
        n_unreadable = write_contact_sheet(sheet, conversations, images or file.parent, seed)
        note(f"contact sheet: {sheet}")
        if n_unreadable:
            place = images or file.parent
            note(f"{n_unreadable} of its images cannot be read in {place}; --images says where they are")
    if as_json:
        facts = dataclasses.asdict(statistics) | {"sheet": None if sheet is None else str(sheet)}
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    for label, text in _describe(statistics):
        show(f"{label:<15} {text}")


def _parse_types(text: str) -> tuple[str, ...]:
    from edge_llava.training.instructions.conversations import RESPONSE_TYPES

    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in RESPONSE_TYPES]
    if unknown:
        raise click.UsageError(f"--types: {', '.join(map(repr, unknown))}; choose among {', '.join(RESPONSE_TYPES)}")
    return tuple(name for name in RESPONSE_TYPES if name in names)


@contextmanager
def _open_teacher(address: str, remote: RemoteChoice, temperature: float | None, seed: int) -> Iterator[Teacher]:
    if address == _SCENES:
        from edge_llava.training.instructions.scene_teacher import SceneTeacher

        yield SceneTeacher(seed)
        return
    from edge_llava.training.instructions.chat_teacher import ChatTeacher

    with remote.open(address) as client:
        yield ChatTeacher(client, temperature)


@contextmanager
def _explain_how_to_resume(out: Path) -> Iterator[None]:
    from edge_llava.training.instructions.journal import journal_path

    try:
        yield
    except KeyboardInterrupt:
        if journal_path(out).exists():
            note(f"Accepted replies are kept in {journal_path(out)}; run the same command again to resume.")
        raise


def _print_faults(faults: tuple[str, ...]) -> None:
    for fault in faults[:_MAX_SHOWN]:
        note(f"left out: {printable_line(str(fault))}")
    if len(faults) > _MAX_SHOWN:
        note(f"left out: {len(faults) - _MAX_SHOWN} more faults")


def _print_report(report: GenerationReport, cost: float | None) -> None:
    shares = ", ".join(f"{number} {kind}" for kind, number in report.accepted.items())
    earlier = f"; {report.n_kept} of them from an earlier run" if report.n_kept else ""
    note(f"accepted: {sum(report.accepted.values())} ({shares}){earlier}")
    if report.rejected:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(report.rejected.items()))
        note(f"rejected: {sum(report.rejected.values())} ({reasons}), kept in {report.rejected_path}")
        note("Run the same command again to retry the rejected ones.")
    if report.prompt_tokens or report.completion_tokens:
        price = "" if cost is None else f", cost {cost:.4f}"
        note(f"tokens:   {report.prompt_tokens} prompt, {report.completion_tokens} completion{price}")


def _describe(statistics: Statistics) -> Iterator[tuple[str, str]]:
    n_without = f", {statistics.n_without_picture} about none" if statistics.n_without_picture else ""
    yield "records", f"{statistics.n_records} about {statistics.n_pictures} images{n_without}"
    yield "turns", f"{statistics.n_turns}; per record {_format(statistics.turns)}"
    yield "question words", _format(statistics.question_words)
    yield "answer words", _format(statistics.answer_words)
    for name, number in statistics.types.items():
        yield f"{name}"[:15], f"{number} ({number / statistics.n_records:.1%})"
    yield (
        "repeated",
        f"{statistics.n_repeated_records} records, {statistics.n_repeated_questions} questions about the same image",
    )


def _format(spread: Distribution) -> str:
    return f"min {spread.min}, median {spread.median:g}, mean {spread.mean:.1f}, max {spread.max}"
