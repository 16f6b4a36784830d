"""One training run: transformers' Trainer on our modules. It resumes bit for bit, and stops before a bad step is taken.

A module takes the collated batch as keywords and returns {"loss": scalar}. Only what requires a gradient is saved and
restored; the rest is loaded from the starting point again. The order of the samples is chosen before the first step, so
a resumed run sees the same samples as an uninterrupted one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from edge_llava.errors import TrainingError
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.training.loss_curve import LossCurve

Batch = Mapping[str, torch.Tensor]
# make_adamw(apart): AdamW of all trained parameters but some
MakeAdamW = Callable[[Sequence[torch.Tensor]], torch.optim.Optimizer]
Precision = Literal["auto", "fp32", "bf16"]

_COMPLETE = "complete"  # written last into a saved step: without it the save was interrupted
_WEIGHTS = "model.safetensors"
_MIN_POINTS = 20  # of the loss curve, if there are as many steps
_KEEP = 2  # saved steps: the newest, and the one before it in case writing the newest is interrupted


@dataclass(frozen=True)
class Schedule:
    """How a module is trained: AdamW unless another optimizer is given, linear warm-up, cosine to zero.

    Attributes:
        learning_rate: Peak.
        batch_size: Samples per device and step.
        accumulation: Batches whose gradients are added up before a step is taken.
        weight_decay: Weight decay of matrices; biases and norms have none.
        warmup_ratio: Share of the steps in which the rate rises.
        max_grad_norm: Gradients are clipped to this norm.
        beta2: Second moment's decay.
        optimizer: optimizer(module, make_adamw) makes another optimizer. A frozen dataclass: its fields are settings of
            the run, as these are.
        save_every: Steps between saved states.
        log_every: Steps between points of the loss curve; fewer in short runs.
        precision: Precision of matrix products; "auto" uses bf16 if the device computes it natively.
        seed: Seed of dropout and everything else that is random while training.
    """

    learning_rate: float
    batch_size: int
    accumulation: int = 1
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    beta2: float = 0.999
    optimizer: Callable[[torch.nn.Module, MakeAdamW], torch.optim.Optimizer] | None = None
    save_every: int = 500
    log_every: int = 10
    precision: Precision = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """A module and the samples that it is trained on.

    Attributes:
        stage: Name for progress and errors: "align".
        module: The module to train.
        samples: All samples of the run in the order in which they are seen, epochs one after another.
        collate: Makes a batch from samples.
        directory: Saved states and the loss curve; a run that it contains is resumed.
        group_rates: Learning rates of parameters by the prefix of their name, if they differ from the schedule's.
    """

    stage: str
    module: torch.nn.Module
    samples: Dataset[Any] | Sequence[Any]
    collate: Callable[[Sequence[Any]], Batch]
    directory: Path
    group_rates: Mapping[str, float] | None = None


def run(job: Job, schedule: Schedule, progress: ProgressCallback = silent) -> float:
    """Trains from the last saved step, or from the start, to the end; the module contains the result.

    Returns:
        Mean loss of the last logged steps.

    Raises:
        TrainingError: If loss or gradients stop being finite, or a state cannot be saved; the last saved one is kept.
    """
    curve = LossCurve(job.directory / "loss.jsonl")
    with one_process_first():
        last = last_saved_step(job.directory)
        if is_first_process():
            curve.resume(after_step=int(last.name.rpartition("-")[2]) if last else 0)
    trainer = _Trainer(job, schedule, curve, progress)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        if is_first_process():
            curve.draw(job.directory / "loss.png", title=job.stage)
    progress(ProgressEvent(job.stage, trainer.state.max_steps, trainer.state.max_steps, "items"))
    return curve.last_loss


def last_saved_step(directory: Path) -> Path | None:
    """Finds the newest completely saved step, and removes interrupted saves.

    Returns:
        Its directory `checkpoint-<step>`, or None.
    """
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in found:
        if not (path / _COMPLETE).is_file():
            shutil.rmtree(path)
    complete = [path for path in found if path.exists()]
    return complete[-1] if complete else None


def use_bf16(precision: Precision) -> bool:
    """Whether matrix products are computed in bfloat16."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, and not in every version and build
    return asked is not None and bool(asked())


def n_devices() -> int:
    """Returns how many processes the launcher started for this run."""
    return int(_processes().num_processes)


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return bool(_processes().is_main_process)


def one_process_first() -> AbstractContextManager[None]:
    """The first process runs this block before the others do."""
    block: AbstractContextManager[None] = _processes().main_process_first()
    return block


def _n_steps(job: Job, schedule: Schedule) -> int:
    samples_per_step = schedule.batch_size * schedule.accumulation * n_devices()
    return -(-len(job.samples) // samples_per_step)  # type: ignore[arg-type]


def _processes() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())


class _Trainer(Trainer):
    def __init__(self, job: Job, schedule: Schedule, curve: LossCurve, progress: ProgressCallback) -> None:
        self._job, self._schedule, self._curve, self._progress = job, schedule, curve, progress
        arguments = TrainingArguments(
            output_dir=str(job.directory),
            per_device_train_batch_size=schedule.batch_size,
            gradient_accumulation_steps=schedule.accumulation,
            num_train_epochs=1,  # `samples` holds all epochs
            learning_rate=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            adam_beta2=schedule.beta2,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(_n_steps(job, schedule) * schedule.warmup_ratio),
            max_grad_norm=schedule.max_grad_norm,
            bf16=use_bf16(schedule.precision),
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            save_steps=schedule.save_every,
            save_total_limit=_KEEP,
            logging_steps=max(1, min(schedule.log_every, _n_steps(job, schedule) // _MIN_POINTS)),
            logging_nan_inf_filter=False,
            seed=schedule.seed,
            optim="adamw_torch_fused",
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            label_names=[],
        )
        super().__init__(job.module, arguments, data_collator=job.collate, train_dataset=job.samples)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return SequentialSampler(self._job.samples)  # type: ignore[arg-type]

    def create_optimizer(self) -> torch.optim.Optimizer:
        """AdamW over matrices and the rest, those with a rate of their own apart, or what the schedule makes of it."""
        make, options = self.get_optimizer_cls_and_kwargs(self.args)

        def make_adamw(apart: Sequence[torch.Tensor] = ()) -> torch.optim.Optimizer:
            adamw: torch.optim.Optimizer = make(self._parameter_groups(apart), **options)
            return adamw

        make_other = self._schedule.optimizer
        optimizer = make_adamw() if make_other is None else make_other(self._job.module, make_adamw)
        optimizer.register_step_pre_hook(self._refuse_bad_gradients)
        self.optimizer = optimizer
        return optimizer

    def _parameter_groups(self, apart: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        elsewhere = set(map(id, apart))
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        rates = self._job.group_rates or {}
        for name, parameter in self._job.module.named_parameters():
            if not parameter.requires_grad or id(parameter) in elsewhere:
                continue
            rate = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), self.args.learning_rate)
            decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]

    def _refuse_bad_gradients(self, optimizer: torch.optim.Optimizer, _args: object, _options: object) -> None:
        """Checks gradients before weights change: a loss can be finite while its gradient is not."""
        members = (parameter for group in optimizer.param_groups for parameter in group["params"])
        norms = [parameter.grad.norm() for parameter in members if parameter.grad is not None]
        if norms and not torch.stack(norms).isfinite().all():
            raise TrainingError(self._divergence("a gradient is not finite"))

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise TrainingError(self._divergence(f"the loss is {loss.item()}"))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds a point to the curve."""
        super().log(logs, start_time)
        if "loss" in logs and is_first_process():
            norm = float(logs.get("grad_norm", 0.0))
            self._curve.add(self.state.global_step, logs["loss"], logs["learning_rate"], norm)
            if self.state.global_step < self.state.max_steps:
                self._progress(ProgressEvent(self._job.stage, self.state.global_step, self.state.max_steps, "items"))

    def _divergence(self, what: str) -> str:
        last = last_saved_step(self._job.directory)
        kept = f"The state of {last.name} is kept in {last}" if last else "No state had been saved yet"
        return (
            f"{self._job.stage}: {what} at step {self.state.global_step + 1} of {self.state.max_steps}. {kept}. "
            "Try a lower learning rate, or fp32, or look at the samples of that step."
        )

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        directory = self._job.directory / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if is_first_process():
                (directory / _COMPLETE).touch()
        except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            shutil.rmtree(directory, ignore_errors=True)
            last = last_saved_step(self._job.directory)
            kept = f"{last} is intact" if last else "nothing was saved before"
            raise TrainingError(
                f"{self._job.stage}: the state of step {self.state.global_step} cannot be saved: {error}. {kept}. "
                "Free space and run the same command again: it resumes from there."
            ) from error

    def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: str | None = None) -> None:
        super()._rotate_checkpoints(use_mtime=False, output_dir=output_dir)  # steps are numbered: no clock is needed

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        save_file(trained_tensors(self._job.module, state_dict), directory / _WEIGHTS, {"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        expected = {name: p for name, p in self._job.module.named_parameters() if p.requires_grad}
        if saved.keys() != expected.keys():
            raise TrainingError(
                f"{resume_from_checkpoint} contains other parameters than this run trains; use --restart."
            )
        with torch.no_grad():
            for name, parameter in expected.items():
                parameter.copy_(saved[name])


def trained_tensors(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Returns the parameters that training changes, by name, from `state` if given (gathered from shards)."""
    source = state or {name: parameter.detach() for name, parameter in module.named_parameters()}
    return {name: source[name].contiguous() for name, p in module.named_parameters() if p.requires_grad}
