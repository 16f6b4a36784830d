"""edge-llava data scienceqa: turns ScienceQA's problems into training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_llava.cli.display import note, show_result
from edge_llava.cli.suffixes import OutFile
from edge_llava.evaluation.benchmarks.scienceqa_problem import FORMATS, Problem, ask, read_problems, tell
from edge_llava.home.json_files import write_text


@click.command("scienceqa")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", default="train", show_default=True, metavar="NAME", help="One of pid_splits.json.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="QCM-LEA",
    show_default=True,
    metavar="FORMAT",
    help="What is asked and answered: parts of the input, a hyphen, parts of the output; or `letter`.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=OutFile(".json", what="these conversations"),
    metavar="FILE.json",
    help="File to write.",
)
def scienceqa_command(directory: Path, split: str, form: str, out: Path) -> None:
    """Turn ScienceQA's problems into training conversations.

    `train finetune` takes them. DIRECTORY has problems.json and pid_splits.json, as published; images lie in
    DIRECTORY/images/SPLIT. Parts of the input are Q question, C context, M choices, L lecture and E solution; of the
    output A answer, L and E, in the order of the letters. LLaVA was trained with QCM-LEA, its first version with
    QCM-LEPA. LLaVA-1.5 is asked in `letter`.

    \b
    edge-llava data scienceqa ScienceQA -o train.json
    edge-llava train finetune --checkpoint aligned --data train.json \\
        --images ScienceQA/images/train -o my-llava
    """
    problems = read_problems(directory, split)
    write_text(out, json.dumps([_record(problem, form) for problem in problems], ensure_ascii=False, indent=1) + "\n")
    n_images = sum(problem.image is not None for problem in problems)
    note(f"{len(problems):,} conversations, {n_images:,} with an image.")
    show_result(out)


def _record(problem: Problem, form: str) -> dict[str, Any]:
    """A conversation in LLaVA's JSON, the image after the question, as LLaVA's script writes it."""
    asked = ask(problem, form)
    image = {} if problem.image_place is None else {"image": problem.image_place}
    values = [
        {"from": "human", "value": f"{asked}\n<image>" if image else asked},
        {"from": "gpt", "value": tell(problem, form)},
    ]
    return {"id": problem.id, **image, "conversations": values}
