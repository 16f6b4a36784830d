"""edge-llava train: trains a LLaVA in its two stages."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.bundle.templates import TRAINED_TEMPLATES
from edge_llava.cli.display import INTERRUPTED, note, show_progress, show_result
from edge_llava.cli.options import json_option
from edge_llava.cli.stop_request import watch_for_stop
from edge_llava.demo import CHECKPOINT, NAME
from edge_llava.errors import TrainingError
from edge_llava.home.progress import ProgressCallback, ProgressEvent

if TYPE_CHECKING:
    from edge_llava.training.llava import ProjectorKind
    from edge_llava.training.stages import TrainResult
    from edge_llava.training.step_end import Stopped
    from edge_llava.training.trainer import Precision


class _Checkpoint(click.Path):
    """A directory, or `demo`, as for `convert`."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        return super().convert(CHECKPOINT if str(value) == NAME else value, param, ctx)


_Command = Callable[..., Any]
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_CHECKPOINT = _Checkpoint(exists=True, file_okay=False, path_type=Path)
_RATE = click.FloatRange(0, min_open=True)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("train")
def command() -> None:
    """Train a LLaVA on your own images, in two stages.

    The first trains its projector, the second its projector and language model. If a stage is stopped, running the same
    command again resumes it.

    \b
    edge-llava train align --tower ./clip --language ./vicuna \\
        --data captions.json --images ./images -o aligned
    edge-llava train finetune --checkpoint aligned \\
        --data conversations.json --images ./images -o my-llava
    edge-llava convert my-llava
    """


def _stage_options(rate: float, batch: int) -> Callable[[_Command], _Command]:
    """Adds the options of both stages, with this stage's defaults."""
    options = (
        click.option("--data", required=True, type=_FILE, help="Conversations in LLaVA's JSON."),
        click.option("--images", required=True, type=_FOLDER, help="Folder that image paths are relative to."),
        click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Output."),
        click.option("--epochs", type=click.IntRange(1), default=1, show_default=True, help="Passes over the data."),
        click.option("--lr", type=_RATE, default=rate, show_default=True, help="Peak learning rate."),
        click.option("--batch", type=click.IntRange(1), default=batch, show_default=True, help="Samples per device."),
        click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per step."),
        click.option("--max-length", type=click.IntRange(16), default=2048, show_default=True, help="Positions."),
        click.option(
            "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True,
            help="auto: bf16 if the device computes it natively.",
        ),
        click.option("--save-every", type=click.IntRange(1), default=500, show_default=True, help="Steps per save."),
        click.option(
            "--save-minutes", type=_RATE, default=10.0, show_default=True, help="Minutes after which it saves as well."
        ),
        click.option("--keep-features", is_flag=True, help="Run the tower once per image; needs disk space."),
        click.option("--gradient-checkpointing", is_flag=True, help="Less memory, about a third more time."),
        click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True),
        click.option("--restart", is_flag=True, help="Discard a stopped run with other settings."),
        click.option("--overwrite", is_flag=True, help="Replace the checkpoint at --out."),
        json_option,
    )  # fmt: skip

    def add(function: _Command) -> _Command:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@command.command("align")
@click.option("--tower", type=_FOLDER, help="CLIP to start from.")
@click.option("--language", type=_FOLDER, help="LLaMA or Vicuna to start from.")
@click.option(
    "--checkpoint",
    type=_CHECKPOINT,
    help="Instead of these: a LLaVA, or demo, to train its projector further.",
)
@click.option(
    "--projector",
    type=click.Choice(["mlp2x_gelu", "linear"]),
    default="mlp2x_gelu",
    show_default=True,
    help="Kind of projector.",
)
@_stage_options(rate=1e-3, batch=32)
def align_command(
    tower: Path | None,
    language: Path | None,
    checkpoint: Path | None,
    projector: ProjectorKind,
    data: Path,
    images: Path,
    out: Path,
    epochs: int,
    lr: float,
    batch: int,
    accumulate: int,
    max_length: int,
    precision: Precision,
    save_every: int,
    save_minutes: float,
    keep_features: bool,
    gradient_checkpointing: bool,
    seed: int,
    restart: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Stage 1: train a new projector on captions.

    Everything else is frozen. The first answer of each conversation in --data is used as the caption.

    \b
    edge-llava train align --tower ./clip --language ./vicuna \\
        --data captions.json --images ./images -o aligned
    """
    if (checkpoint is None) != (tower is not None and language is not None) or (checkpoint and (tower or language)):
        raise click.UsageError("Name --tower and --language, or --checkpoint alone.")
    _prepare(out, data, images, overwrite)
    from edge_llava.training.stages import TrainOptions, align
    from edge_llava.training.starting_point import join, open_llava
    from edge_llava.training.trainer import Schedule

    schedule = Schedule(
        lr, batch, accumulate, save_every=save_every, save_every_s=60 * save_minutes, precision=precision, seed=seed
    )
    options = TrainOptions(
        data, images, out, schedule, epochs, max_length,
        keep_features=keep_features, gradient_checkpointing=gradient_checkpointing, restart=restart,
    )  # fmt: skip
    if checkpoint is not None:
        llava = open_llava(checkpoint)
    else:
        assert tower is not None
        assert language is not None
        llava = join(tower, language, projector, seed)
    with _run(out, as_json) as progress:
        result = align(llava, options, progress, watch_for_stop)
    _report(result, as_json)


@command.command("finetune")
@click.option(
    "--checkpoint",
    type=_CHECKPOINT,
    required=True,
    help="The LLaVA to start from: the output of align, demo, or any other.",
)
@click.option(
    "--template",
    type=click.Choice(TRAINED_TEMPLATES),
    default="llava_v1",
    show_default=True,
    help="Conversation template.",
)
@click.option("--projector-lr", type=_RATE, help="Peak learning rate of the projector.")
@click.option("--lora", is_flag=True, help="Train low-rank adapters, and merge them into the checkpoint at the end.")
@click.option("--lora-rank", type=click.IntRange(1), default=128, show_default=True)
@click.option("--lora-alpha", type=click.IntRange(1), default=256, show_default=True)
@_stage_options(rate=2e-5, batch=16)
def finetune_command(
    checkpoint: Path,
    template: str,
    projector_lr: float | None,
    lora: bool,
    lora_rank: int,
    lora_alpha: int,
    data: Path,
    images: Path,
    out: Path,
    epochs: int,
    lr: float,
    batch: int,
    accumulate: int,
    max_length: int,
    precision: Precision,
    save_every: int,
    save_minutes: float,
    keep_features: bool,
    gradient_checkpointing: bool,
    seed: int,
    restart: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Stage 2: train projector and language model on conversations.

    The tower is frozen.

    \b
    edge-llava train finetune --checkpoint aligned \\
        --data conversations.json --images ./images -o my-llava
    edge-llava train finetune --checkpoint ./llava-1.5-7b-hf --lora --lr 2e-4 \\
        --data mine.json --images . -o mine
    """
    _prepare(out, data, images, overwrite)
    from edge_llava.training.lora import LoraOptions
    from edge_llava.training.stages import TrainOptions, finetune
    from edge_llava.training.starting_point import open_llava
    from edge_llava.training.trainer import Schedule

    schedule = Schedule(
        lr, batch, accumulate, save_every=save_every, save_every_s=60 * save_minutes, precision=precision, seed=seed
    )
    options = TrainOptions(
        data, images, out, schedule, epochs, max_length,
        template=template, projector_rate=projector_lr, lora=LoraOptions(lora_rank, lora_alpha) if lora else None,
        keep_features=keep_features, gradient_checkpointing=gradient_checkpointing, restart=restart,
    )  # fmt: skip
    llava = open_llava(checkpoint)
    with _run(out, as_json) as progress:
        result = finetune(llava, options, progress, watch_for_stop)
    _report(result, as_json)


def _prepare(out: Path, data: Path, images: Path, overwrite: bool) -> None:
    """Refuses what can be refused before torch and the model are loaded, which can take minutes."""
    from edge_llava.training import require_training
    from edge_llava.training.instructions.conversations import read_conversations

    require_training()
    if out.exists() and not overwrite:
        raise TrainingError(f"{out} exists already. Choose another place with -o, or replace it with --overwrite.")
    read_conversations(data, images)


@contextmanager
def _run(out: Path, as_json: bool) -> Iterator[ProgressCallback]:
    """Shows a run's progress, where it continues, and where it was stopped, which ends the process."""
    from edge_llava.training.processes import is_first_process
    from edge_llava.training.saved_steps import find_saved_step, run_directory, step_of
    from edge_llava.training.step_end import Stopped

    watched = None
    try:
        with show_progress() as progress:
            watched = _NoteContinued(progress)
            yield watched
    except Stopped as stop:
        if is_first_process():
            note(
                f"Stopped at step {stop.step:,} of {stop.n_steps:,}, saved. "
                f"The same command continues at step {stop.step + 1:,}."
            )
            if as_json:
                click.echo(json.dumps(_stopped_figures(stop, find_saved_step(run_directory(out)))))
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        # before the first step, what is saved may be of a run with other settings
        has_begun = watched is not None and watched.has_begun
        if is_first_process() and has_begun and (saved := find_saved_step(run_directory(out))) is not None:
            note(f"Step {step_of(saved):,} is saved. The same command continues from there.")
        raise


def _stopped_figures(stop: Stopped, saved: Path | None) -> dict[str, object]:
    """The JSON of a run that was stopped: that of a finished one has a checkpoint, and no steps."""
    loss = stop.last_loss if math.isfinite(stop.last_loss) else None
    figures = {"checkpoint": None, "loss": loss, "step": stop.step, "n_steps": stop.n_steps}
    return figures | {"saved": str(saved) if saved else None}


class _NoteContinued:
    """A progress callback that says where a run continues.

    Attributes:
        has_begun: Whether steps are being taken.
    """

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress, self.has_begun = progress, False

    def __call__(self, event: ProgressEvent) -> None:
        if event.unit == "steps" and not self.has_begun:
            self.has_begun = True
            if event.total is not None and 0 < event.done < event.total:
                note(f"Continuing at step {event.done + 1:,} of {event.total:,}.")
        self._progress(event)


def _report(result: TrainResult, as_json: bool) -> None:
    from edge_llava.training.processes import is_first_process

    if not is_first_process():
        return
    if result.n_cut:
        note(f"{result.n_cut} of {result.n_samples} conversations were longer than --max-length and were truncated.")
    if as_json:
        figures = {"checkpoint": str(result.checkpoint), "loss": result.last_loss}
        click.echo(json.dumps(figures | {"n_samples": result.n_samples, "n_cut": result.n_cut}))
        return
    note(f"last loss {result.last_loss:.3f}; the curve is in {result.checkpoint / 'loss.png'}")
    show_result(result.checkpoint)
