"""LLaVA's two stages: `align` teaches the projector captions, `finetune` teaches projector and language model to talk.

Source: LLaVA and LLaVA-1.5; LLAVA's scripts/v1_5/pretrain.sh and finetune.sh for the defaults.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_llava.bundle.templates import TRAINED_TEMPLATES, find_template
from edge_llava.errors import DataError, TrainingError, list_faults
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.training.instructions.conversations import read_conversations
from edge_llava.training.llava import Llava, LlavaLoss
from edge_llava.training.lora import LoraOptions, add_lora, merge_lora
from edge_llava.training.muon import hidden_matrices
from edge_llava.training.order import draw_order
from edge_llava.training.pictures import KeptFeatures, PictureFolder
from edge_llava.training.samples import IGNORED, Sample, SampleBuilder
from edge_llava.training.saving import write_checkpoint
from edge_llava.training.trainer import Batch, Job, Schedule, is_first_process, n_devices, one_process_first, run

ALIGN_SCHEDULE = Schedule(learning_rate=1e-3, batch_size=32)
FINETUNE_SCHEDULE = Schedule(learning_rate=2e-5, batch_size=16)


@dataclass(frozen=True)
class TrainOptions:
    """One stage.

    Attributes:
        data: Conversations in LLaVA's JSON.
        images: Folder that their pictures are relative to.
        out: Directory of the trained checkpoint.
        schedule: Rates, batches, steps between saved states.
        n_epochs: Times that each conversation is seen.
        max_length: Positions of a sample, patches included; what is longer is cut.
        template: Name of the conversation template (stage 2), one of TRAINED_TEMPLATES.
        projector_rate: Learning rate of the projector, where it differs (stage 2).
        lora: Low-rank adapters in the language model instead of its full weights (stage 2).
        keep_features: Compute the frozen tower's features once and keep them on disk while training.
        features: Folder for these, shared by runs on the same pictures; None takes the run's own.
        gradient_checkpointing: Compute activations twice instead of keeping them: less memory, a third more time.
        restart: Throw away what an earlier run with other settings left.
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
    """What a stage made.

    Attributes:
        checkpoint: Directory.
        last_loss: Mean loss of the last logged steps.
        n_samples: Conversations used.
        n_cut: Of these, how many were longer than max_length.
    """

    checkpoint: Path
    last_loss: float
    n_samples: int
    n_cut: int


def align(llava: Llava, options: TrainOptions, progress: ProgressCallback = silent) -> TrainResult:
    """Stage 1: the projector alone, on captions in the plain template.

    Args:
        llava: What to start from; changed.
        options: Data and schedule.
        progress: Told steps.

    Raises:
        DataError: If the data cannot be read.
        TrainingError: If training fails; the last saved step is kept and taken up by the same call.
    """
    builder = _builder(llava, options)
    conversations = read_conversations(options.data, options.images)
    samples = [builder.plain(conversation) for conversation in conversations]
    return _train("align", llava, LlavaLoss(llava, train_language=False), samples, options, progress)


def finetune(llava: Llava, options: TrainOptions, progress: ProgressCallback = silent) -> TrainResult:
    """Stage 2: projector and language model, on conversations. Arguments and errors as `align`."""
    if options.template not in TRAINED_TEMPLATES:
        raise TrainingError(
            f"the template {options.template!r} is not taught here; {', '.join(TRAINED_TEMPLATES)} are."
        )
    builder, template = _builder(llava, options), find_template(options.template)
    conversations = read_conversations(options.data, options.images)
    samples = [builder.chat(conversation, template) for conversation in conversations]
    module = LlavaLoss(llava, train_language=options.lora is None)
    if options.lora is not None:
        add_lora(llava, options.lora, options.schedule.seed)
    return _train("finetune", llava, module, samples, options, progress)


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
) -> TrainResult:
    _check_samples(samples, options)
    work = options.out.with_name(f"{options.out.name}.training")
    folder = PictureFolder(options.images, llava)
    names = [sample.picture for sample in samples if sample.picture is not None]
    if options.gradient_checkpointing:
        language = llava.model.model.language_model
        # transformers 5 renamed it
        enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    with one_process_first():
        _claim(work, _fingerprint(stage, llava, options), restart=options.restart and is_first_process())
        reader = KeptFeatures(folder, names, options.features or work, progress) if options.keep_features else folder
    order = draw_order(
        [len(sample.ids) for sample in samples],
        [sample.picture is not None for sample in samples],
        options.schedule.batch_size * options.schedule.accumulation * n_devices(),
        options.n_epochs,
        options.schedule.seed,
    )
    rates = {"llava.model.multi_modal_projector": options.projector_rate} if options.projector_rate else None
    collator = _Collator(reader, llava.special.pad)
    matrices = hidden_matrices(llava.model.model.multi_modal_projector, llava.model.model.language_model)
    job = Job(stage, module, _Ordered(samples, order), collator, work, rates, matrices)
    loss = run(job, options.schedule, progress)
    if options.lora is not None:
        merge_lora(llava)
    if is_first_process():
        write_checkpoint(llava, options.out, (work / "loss.jsonl", work / "loss.png"))
        shutil.rmtree(work)
    return TrainResult(options.out, loss, len(samples), sum(sample.n_cut > 0 for sample in samples))


def _check_samples(samples: list[Sample], options: TrainOptions) -> None:
    if not samples:
        raise DataError(f"{options.data} holds no conversation.")
    mute = [str(index) for index, sample in enumerate(samples) if not (sample.labels != IGNORED).any()]
    if len(mute) == len(samples):
        raise DataError(f"{options.data}: nothing is left to learn within {options.max_length} positions.")
    for index in map(int, reversed(mute)):  # their answers were cut off
        del samples[index]


class _Ordered(Dataset[Sample]):
    """Samples in the order of a run, epochs one after another."""

    def __init__(self, samples: Sequence[Sample], order: np.ndarray) -> None:
        self._samples, self._order = samples, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[int(self._order[index])]


class _Collator:
    """Fills the rows of a batch up and reads its pictures."""

    def __init__(self, reader: PictureFolder | KeptFeatures, pad: int) -> None:
        self._reader, self._pad = reader, pad

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        fill = torch.nn.utils.rnn.pad_sequence
        ids = fill([sample.ids for sample in samples], batch_first=True, padding_value=self._pad)
        return {
            "ids": ids,
            "labels": fill([sample.labels for sample in samples], batch_first=True, padding_value=IGNORED),
            "pictures": self._reader.read([sample.picture for sample in samples if sample.picture is not None]),
        }


def _fingerprint(stage: str, llava: Llava, options: TrainOptions) -> dict[str, Any]:
    """What must be the same for a run to be taken up."""
    weights = hashlib.sha256()
    for parameter in llava.model.parameters():
        weights.update(parameter.detach().flatten()[:1024].cpu().numpy().tobytes())
    settings = dataclasses.asdict(options)
    for name in ("data", "images", "out", "features", "restart", "keep_features", "gradient_checkpointing"):
        del settings[name]
    return {
        "stage": stage,
        "starting point": weights.hexdigest(),
        "data": hashlib.sha256(options.data.read_bytes()).hexdigest(),
        "devices": n_devices(),
        **settings,
    }


def _claim(work: Path, fingerprint: dict[str, Any], *, restart: bool) -> None:
    """Makes the run's directory, or finds that it is the same run's."""
    path = work / "run.json"
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in fingerprint if found.get(key) != json.loads(json.dumps(fingerprint[key]))]
        if changed:
            advice = "Run it as before to go on with it, or say --restart to throw its steps away."
            raise TrainingError(list_faults(f"{work} holds an unfinished run that differs in:", changed, advice))
        return
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fingerprint, indent=2), encoding="utf-8")
