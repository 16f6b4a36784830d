"""LLaVA's two stages: `align` trains the projector on captions, `finetune` also the language model, on conversations.

Source: LLaVA and LLaVA-1.5; LLAVA's scripts/v1_5/pretrain.sh and finetune.sh for the defaults.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_llava.bundle.templates import TRAINED_TEMPLATES, find_template
from edge_llava.errors import DataError, TrainingError, list_faults
from edge_llava.home.files import digest_file, write_text
from edge_llava.home.lock import HeldElsewhere, hold
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.training.images import ImageFolder, KeptFeatures
from edge_llava.training.instructions.conversations import read_conversations
from edge_llava.training.llava import Llava, LlavaLoss
from edge_llava.training.lora import LoraOptions, add_lora, merge_lora
from edge_llava.training.order import draw_order
from edge_llava.training.processes import is_first_process, n_devices, one_process_first
from edge_llava.training.samples import IGNORED, Sample, SampleBuilder
from edge_llava.training.saved_steps import run_directory
from edge_llava.training.saving import write_checkpoint
from edge_llava.training.step_end import WatchForStop, never_stop
from edge_llava.training.trainer import Batch, Job, Schedule, run

ALIGN_SCHEDULE = Schedule(learning_rate=1e-3, batch_size=32)
FINETUNE_SCHEDULE = Schedule(learning_rate=2e-5, batch_size=16)
_FREE = ("save_every", "save_every_s")  # settings of a schedule that change nothing about the result


@dataclass(frozen=True)
class TrainOptions:
    """One stage.

    Attributes:
        data: Conversations in LLaVA's JSON.
        images: Folder that their images are relative to.
        out: Directory of the trained checkpoint.
        schedule: Rates, batches, steps between saved states.
        n_epochs: How often each conversation is seen.
        max_length: Positions of a sample, including patches; longer samples are cut.
        template: Name of the conversation template (stage 2), one of TRAINED_TEMPLATES.
        projector_rate: Learning rate of the projector, if it differs (stage 2).
        lora: Low-rank adapters in the language model instead of its full weights (stage 2).
        keep_features: Compute the frozen tower's features once and keep them on disk while training.
        features: Folder for these, shared by runs on the same images; None uses the run's own.
        gradient_checkpointing: Compute activations twice instead of keeping them: less memory, a third more time.
        restart: Discard what an earlier run with other settings left; one with the same settings is resumed anyway.
    """

    data: Path
    images: Path
    out: Path
    schedule: Schedule
    n_epochs: int = 1
    max_length: int = 2048
    template: str = "llava_v1"
    projector_rate: float | None = None
    lora: LoraOptions | None = None
    keep_features: bool = False
    features: Path | None = None
    gradient_checkpointing: bool = False
    restart: bool = False


@dataclass(frozen=True)
class TrainResult:
    """The result of a stage.

    Attributes:
        checkpoint: Directory.
        last_loss: Mean loss of the last logged steps.
        n_samples: Conversations used.
        n_cut: How many of these were longer than max_length.
    """

    checkpoint: Path
    last_loss: float
    n_samples: int
    n_cut: int


def align(
    llava: Llava,
    options: TrainOptions,
    progress: ProgressCallback = silent,
    watch_for_stop: WatchForStop = never_stop,
) -> TrainResult:
    """Runs stage 1: trains only the projector, on captions in the plain template.

    Args:
        llava: The model to start from; it is changed.
        options: Data and schedule.
        progress: Receives the number of steps; the first number is that of the steps that an earlier call had saved.
        watch_for_stop: Watches while steps are taken; if a stop is requested, the step is finished and saved.

    Raises:
        DataError: If the data cannot be read.
        Stopped: If a stop was requested; the same call continues with the next step.
        TrainingError: If training fails; the last saved step is kept, and the same call resumes from it.
    """
    builder = _builder(llava, options)
    conversations = read_conversations(options.data, options.images)
    samples = [builder.plain(conversation) for conversation in conversations]
    module = LlavaLoss(llava, train_language=False)
    return _train("align", llava, module, samples, options, progress, watch_for_stop)


def finetune(
    llava: Llava,
    options: TrainOptions,
    progress: ProgressCallback = silent,
    watch_for_stop: WatchForStop = never_stop,
) -> TrainResult:
    """Runs stage 2: trains projector and language model on conversations. Arguments and errors are those of `align`."""
    if options.template not in TRAINED_TEMPLATES:
        raise TrainingError(
            f"the template {options.template!r} cannot be trained here; use one of {', '.join(TRAINED_TEMPLATES)}."
        )
    builder, template = _builder(llava, options), find_template(options.template)
    conversations = read_conversations(options.data, options.images)
    samples = [builder.chat(conversation, template) for conversation in conversations]
    module = LlavaLoss(llava, train_language=options.lora is None)
    if options.lora is not None:
        add_lora(llava, options.lora, options.schedule.seed)
    return _train("finetune", llava, module, samples, options, progress, watch_for_stop)


def _builder(llava: Llava, options: TrainOptions) -> SampleBuilder:
    positions = llava.model.config.text_config.max_position_embeddings
    return SampleBuilder(llava.tokenizer, llava.special, min(options.max_length, positions))


def _train(
    stage: str,
    llava: Llava,
    module: LlavaLoss,
    samples: list[Sample],
    options: TrainOptions,
    progress: ProgressCallback,
    watch_for_stop: WatchForStop,
) -> TrainResult:
    _check_samples(samples, options)
    work = run_directory(options.out)
    folder = ImageFolder(options.images, llava)
    names = [sample.image for sample in samples if sample.image is not None]
    if options.gradient_checkpointing:
        _checkpoint_gradients(llava)
    with _alone_in(work):
        with one_process_first():
            _claim(work, _fingerprint(stage, llava, options), restart=options.restart and is_first_process())
            reader = (
                KeptFeatures(folder, names, options.features or work, progress) if options.keep_features else folder
            )
        order = draw_order(
            [len(sample.ids) for sample in samples],
            [sample.image is not None for sample in samples],
            options.schedule.batch_size * options.schedule.accumulation * n_devices(),
            options.n_epochs,
            options.schedule.seed,
        )
        rates = {"llava.model.multi_modal_projector": options.projector_rate} if options.projector_rate else None
        collator = _Collator(reader, llava.special.pad)
        job = Job(stage, module, _Ordered(samples, order), collator, work, rates)
        loss = run(job, options.schedule, progress, watch_for_stop)
        if options.lora is not None:
            merge_lora(llava)
        if is_first_process():
            write_checkpoint(llava, options.out, (work / "loss.jsonl", work / "loss.png"))
            shutil.rmtree(work)
    return TrainResult(options.out, loss, len(samples), sum(sample.n_cut > 0 for sample in samples))


@contextmanager
def _alone_in(work: Path) -> Iterator[None]:
    """Excludes other runs from this directory within the `with` block; the processes of one run count as one."""
    if not is_first_process():
        yield
        return
    work.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(hold(work))
        except HeldElsewhere as error:
            raise TrainingError(
                f"another run is training in {work}. Wait until it ends, or choose another output with -o."
            ) from error
        yield


def _checkpoint_gradients(llava: Llava) -> None:
    language = llava.model.model.language_model
    # transformers 5 renamed it
    enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _check_samples(samples: list[Sample], options: TrainOptions) -> None:
    if not samples:
        raise DataError(f"{options.data} contains no conversations.")
    mute = [str(index) for index, sample in enumerate(samples) if not (sample.labels != IGNORED).any()]
    if len(mute) == len(samples):
        raise DataError(f"{options.data}: nothing is left to learn within {options.max_length} positions.")
    for index in map(int, reversed(mute)):  # their answers were cut off
        del samples[index]


class _Ordered(Dataset[Sample]):
    """Samples in the order of a run, one epoch after another."""

    def __init__(self, samples: Sequence[Sample], order: np.ndarray) -> None:
        self._samples, self._order = samples, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[int(self._order[index])]


class _Collator:
    """Pads the rows of a batch and reads its images."""

    def __init__(self, reader: ImageFolder | KeptFeatures, pad: int) -> None:
        self._reader, self._pad = reader, pad

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        fill = torch.nn.utils.rnn.pad_sequence
        ids = fill([sample.ids for sample in samples], batch_first=True, padding_value=self._pad)
        return {
            "ids": ids,
            "labels": fill([sample.labels for sample in samples], batch_first=True, padding_value=IGNORED),
            "images": self._reader.read([sample.image for sample in samples if sample.image is not None]),
        }


def _fingerprint(stage: str, llava: Llava, options: TrainOptions) -> dict[str, Any]:
    """Returns what must be equal for a run to be resumed."""
    weights = hashlib.sha256()
    for parameter in llava.model.parameters():
        weights.update(parameter.detach().flatten()[:1024].cpu().numpy().tobytes())
    settings = dataclasses.asdict(options)
    for name in ("data", "images", "out", "features", "restart", "keep_features", "gradient_checkpointing"):
        del settings[name]
    return {
        "stage": stage,
        "starting point": weights.hexdigest(),
        "data": digest_file(options.data),
        "devices": n_devices(),
        **settings,
    }


def _without_free_settings(run: dict[str, Any]) -> dict[str, Any]:
    schedule = {name: value for name, value in run["schedule"].items() if name not in _FREE}
    return run | {"schedule": schedule}


def _claim(work: Path, fingerprint: dict[str, Any], *, restart: bool) -> None:
    """Makes the run's directory, or finds that it is the same run's; `restart` discards another run's."""
    path = work / "run.json"
    if path.is_file():
        now = _without_free_settings(json.loads(json.dumps(fingerprint)))
        try:
            found = _without_free_settings(json.loads(path.read_text(encoding="utf-8")))
            changed = [key for key in now if found.get(key) != now[key]]
        except ValueError:  # a power failure before the first save can leave the file empty
            changed = [f"{path.name}, which cannot be read"]
        if not changed:
            return
        if not restart:
            advice = "Use its settings to resume it, or --restart to discard its steps."
            raise TrainingError(list_faults(f"{work} contains an unfinished run that differs in:", changed, advice))
        shutil.rmtree(work, ignore_errors=True)
    try:
        write_text(path, json.dumps(fingerprint, indent=2))
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error}. Nothing was begun.") from error
