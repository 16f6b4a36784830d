"""One training run: transformers' Trainer on our modules. It resumes bit for bit, and stops before a bad step is taken.

A module takes the collated batch as keywords and returns {"loss": scalar}. Only what requires a gradient is saved and
restored; the rest is loaded from the starting point again. The order of the samples is chosen before the first step, so
a resumed run sees the same samples as an uninterrupted one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from edge_llava.errors import TrainingError
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.training.loss_curve import LossCurve, smooth
from edge_llava.training.processes import is_first_process, mean_over_processes, n_devices, one_process_first
from edge_llava.training.saved_steps import cannot_write, complete_step, last_saved_step, read_open_loss, step_of
from edge_llava.training.step_end import StepEnd, Stopped, StopRequested, WatchForStop, never_stop

Batch = Mapping[str, torch.Tensor]
# make_adamw(apart): AdamW of all trained parameters but some
MakeAdamW = Callable[[Sequence[torch.Tensor]], torch.optim.Optimizer]
Precision = Literal["auto", "fp32", "bf16"]

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
        save_every_s: Seconds after which the state is saved besides.
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
    save_every_s: float = 600.0
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


def run(
    job: Job, schedule: Schedule, progress: ProgressCallback = silent, watch_for_stop: WatchForStop = never_stop
) -> float:
    """Trains from the last saved step, or from the start, to the end; the module contains the result.

    Args:
        job: What is trained.
        schedule: How.
        progress: Receives the steps taken: before the first one, the number that an earlier call had saved.
        watch_for_stop: Watches while steps are taken; if a stop is requested, the step is finished and saved.

    Returns:
        Mean loss of the last logged steps.

    Raises:
        Stopped: If a stop was requested.
        TrainingError: If loss or gradients stop being finite, or a state cannot be saved; the last saved one is kept.
    """
    curve = LossCurve(job.directory / "loss.jsonl")
    with one_process_first():
        last = last_saved_step(job.directory)
        if is_first_process():
            try:
                curve.resume(after_step=step_of(last) if last else 0)
            except OSError as error:
                raise cannot_write(f"{job.stage}: the loss curve", job.directory, error) from error
    with watch_for_stop() as is_requested:
        trainer = _Trainer(job, schedule, curve, progress, is_requested, last)
        try:
            trainer.run()
        finally:
            if is_first_process():
                with suppress(OSError):  # a full disk; the curve's points are kept, and an error above is the news
                    curve.draw(job.directory / "loss.png", title=job.stage)
    step, n_steps = trainer.state.global_step, trainer.state.max_steps
    if step < n_steps:
        raise Stopped(step, n_steps, curve.last_loss)
    return curve.last_loss


def use_bf16(precision: Precision) -> bool:
    """Whether matrix products are computed in bfloat16."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, and not in every version and build
    return asked is not None and bool(asked())


def _n_steps(job: Job, schedule: Schedule) -> int:
    samples_per_step = schedule.batch_size * schedule.accumulation * n_devices()
    return -(-len(job.samples) // samples_per_step)  # type: ignore[arg-type]


class _Trainer(Trainer):
    def __init__(
        self,
        job: Job,
        schedule: Schedule,
        curve: LossCurve,
        progress: ProgressCallback,
        is_requested: StopRequested,
        saved: Path | None,
    ) -> None:
        self._job, self._schedule, self._curve, self._progress = job, schedule, curve, progress
        self._saved, self._n_done = saved, step_of(saved) if saved else 0
        self._end = StepEnd(schedule.save_every, schedule.save_every_s, is_requested, self._n_done)
        # sums since the last point of the curve, and since the last step
        self._open_loss, self._step_loss = read_open_loss(saved) if saved else 0.0, 0.0
        self._smooth_loss: float | None = None
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
            save_strategy="no",  # `StepEnd` decides
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

    def run(self) -> None:
        """Takes the steps after the saved one, or all, until the end or a stop."""
        self._report(self._n_done, _n_steps(self._job, self._schedule))
        self.train(resume_from_checkpoint=str(self._saved) if self._saved else None)

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
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(self._divergence(f"the loss is {value}"))
        self._open_loss += value
        self._step_loss += value
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds a point to the curve: the mean of the steps since the last one, which an earlier run may have taken."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        loss = mean_over_processes([self._open_loss])[0] / self.args.logging_steps
        self._open_loss = 0.0
        if is_first_process():
            norm = float(logs.get("grad_norm", 0.0))
            try:
                self._curve.add(self.state.global_step, loss, logs["learning_rate"], norm)
            except OSError as error:
                raise self._cannot_write("loss", error) from error

    def _maybe_log_save_evaluate(self, *figures: Any, learning_rate: float | None = None) -> None:
        """Ends a step: logs, saves, and reports. Called after each step, and once more after the last."""
        step, n_steps = self.state.global_step, self.state.max_steps
        is_new = self._end.decide(step, n_steps)
        self.control.should_save = is_new and self._end.must_save
        self.control.should_training_stop = self._end.must_stop or step >= n_steps
        super()._maybe_log_save_evaluate(*figures, learning_rate=learning_rate)
        if is_new:
            self._smooth_loss, self._step_loss = smooth(self._smooth_loss, self._step_loss), 0.0
            self._report(step, n_steps)

    def _report(self, step: int, n_steps: int) -> None:
        if is_first_process():
            detail = f"loss {self._smooth_loss:.3f}" if self._smooth_loss is not None and step < n_steps else ""
            self._progress(ProgressEvent(self._job.stage, step, n_steps, "steps", detail))

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
            with self._end.saving():
                super()._save_checkpoint(model, trial)
                (open_loss,) = mean_over_processes([self._open_loss])  # waits for the files of all processes
                if is_first_process():
                    complete_step(directory, open_loss)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            shutil.rmtree(directory, ignore_errors=True)
            raise self._cannot_write("state", error) from error

    def _cannot_write(self, what: str, error: Exception) -> TrainingError:
        place = f"{self._job.stage}: the {what} of step {self.state.global_step}"
        return cannot_write(place, self._job.directory, error)

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
                f"{resume_from_checkpoint} contains other parameters than this run trains. "
                f"Delete {self._job.directory} to begin from the start."
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
