"""Runs that are stopped, interrupted or killed, and then continue: nothing is lost that was saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo_checkpoint.muon import MuonForMatrices
from edge_llava.errors import TrainingError
from edge_llava.home.progress import ProgressEvent
from edge_llava.training import step_end, trainer
from edge_llava.training.saved_steps import complete_step, last_saved_step, step_of
from edge_llava.training.saving import write_checkpoint
from edge_llava.training.stages import finetune
from edge_llava.training.starting_point import join
from edge_llava.training.step_end import StepEnd, Stopped

pytestmark = pytest.mark.convert


def start(material):
    return join(material.tower, material.language, "mlp2x_gelu", seed=5)


def points(out: Path) -> list[dict[str, float]]:
    """The loss curve without its times of day."""
    return [json.loads(line) | {"time": 0} for line in (out / "loss.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("keep_features", "optimizer"), [(False, None), (True, None), (False, MuonForMatrices(2e-3, 0.05))]
)
def test_a_stopped_run_ends_like_one_that_was_not(material, options, tmp_path, monkeypatch, keep_features, optimizer):
    schedule = replace(options.schedule, optimizer=optimizer)
    options = replace(options, keep_features=keep_features, schedule=schedule)
    finetune(start(material), options)
    stopped = replace(options, out=tmp_path / "stopped")

    steps = 0

    def stop_at_step_five(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    original = trainer._Trainer.training_step
    monkeypatch.setattr(trainer._Trainer, "training_step", stop_at_step_five)
    with pytest.raises(KeyboardInterrupt):
        finetune(start(material), stopped)
    monkeypatch.undo()
    assert (tmp_path / "stopped.training" / "checkpoint-4" / "complete").is_file()
    assert not stopped.out.exists()
    finetune(start(material), stopped)
    assert (stopped.out / "model.safetensors").read_bytes() == (options.out / "model.safetensors").read_bytes()
    assert points(options.out) == points(stopped.out)
    assert not (tmp_path / "stopped.training").exists()


def test_a_run_that_is_told_to_stop_continues(material, options, tmp_path):
    """It stops between two points of the loss curve, and after a step that would not have been saved."""
    schedule = replace(options.schedule, batch_size=1, log_every=10, save_every=1000)
    options = replace(options, n_epochs=4, schedule=schedule)
    finetune(start(material), options)
    stopped = replace(options, out=tmp_path / "stopped")
    events: list[ProgressEvent] = []

    @contextmanager
    def after_five_steps():
        yield lambda: len(events) > 5  # the first one comes before the first step

    with pytest.raises(Stopped) as stop:
        finetune(start(material), stopped, events.append, after_five_steps)
    assert (stop.value.step, stop.value.n_steps) == (6, 48)
    assert [event.done for event in events] == list(range(7))
    assert events[0].detail == ""
    assert not stopped.out.exists()
    finetune(start(material), stopped, events.append)
    assert [event.done for event in events[7:]] == list(range(6, 49))
    assert (stopped.out / "model.safetensors").read_bytes() == (options.out / "model.safetensors").read_bytes()
    assert [point["step"] for point in points(options.out)] == list(range(2, 49, 2))
    assert points(stopped.out) == points(options.out)


def test_state_is_saved_by_time_too(material, options, tmp_path):
    llava = start(material)
    calls: list[int] = []

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 4 else output

    llava.model.lm_head.register_forward_hook(poison)
    schedule = replace(options.schedule, save_every=1000, save_every_s=1e-9)
    with pytest.raises(TrainingError, match=r"The state of checkpoint-[123] is kept in"):
        finetune(llava, replace(options, schedule=schedule))


def test_saving_by_time_takes_a_tenth_of_it_at_most(monkeypatch):
    now = 0.0
    monkeypatch.setattr(step_end, "monotonic", lambda: now)
    end = StepEnd(save_every=1000, save_every_s=60, is_requested=lambda: False, n_done=0)
    saved_at = []
    for step in range(1, 200):
        now += 10  # for the step
        end.decide(step, 1000)
        if end.must_save:
            saved_at.append(step)
            with end.saving():
                now += 20 if step > 10 else 1
    assert saved_at == [6, 12, 32, 52, 72, 92, 112, 132, 152, 172, 192]


def test_a_saved_step_that_was_damaged_gives_way_to_the_one_before(material, options, tmp_path, monkeypatch):
    """As by a power failure, which also left zeros in the loss curve."""
    finetune(start(material), options)
    stopped, work = replace(options, out=tmp_path / "stopped"), tmp_path / "stopped.training"
    stop_at_step(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        finetune(start(material), stopped)
    monkeypatch.undo()
    assert last_saved_step(work) == work / "checkpoint-4"
    weights = work / "checkpoint-4" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with (work / "loss.jsonl").open("ab") as file:
        file.write(bytes(20) + b"\n")
    events: list[ProgressEvent] = []
    finetune(start(material), stopped, events.append)
    assert events[0].done == 2
    assert (stopped.out / "model.safetensors").read_bytes() == (options.out / "model.safetensors").read_bytes()
    assert points(stopped.out) == points(options.out)


def finetune_arguments(material, checkpoint: Path, out: Path, *more: str) -> list[str]:
    """For 78 steps, with a point of the loss curve every 3."""
    return [
        "train", "finetune", "--checkpoint", str(checkpoint), "--data", str(material.conversations),
        "--images", str(material.images), "-o", str(out), "--precision", "fp32", "--lr", "1e-3", "--batch", "1",
        "--epochs", "6", "--save-every", "4", *more,
    ]  # fmt: skip


def stop_after_a_save(arguments: list[str], work: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Runs a command until it has saved another step, and sends it a signal."""
    before = last_saved_step(work)
    # results are bit-identical only for the same number of threads
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "edge_llava.cli", *arguments]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            saved = {path.parent for path in work.glob("checkpoint-*/complete")}
            if any(before is None or step_of(path) > step_of(before) for path in saved):
                break
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_a_run_that_was_stopped_and_killed_ends_like_one_that_was_not(run, material, tmp_path):
    write_checkpoint(start(material), tmp_path / "aligned")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(*finetune_arguments(material, tmp_path / "aligned", whole)).code == 0
    arguments = finetune_arguments(material, tmp_path / "aligned", out)
    work = tmp_path / "out.training"
    killed = stop_after_a_save(arguments, work, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    step = step_of(last_saved_step(work))
    stopped = stop_after_a_save(arguments, work, signal.SIGINT)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.startswith(f"Continuing at step {step + 1} of 78.\n")
    step = step_of(last_saved_step(work))
    assert stopped.stderr.endswith(
        "Finishing this step and saving; press Ctrl-C again to stop without saving.\n"
        f"Stopped at step {step} of 78, saved. The same command continues at step {step + 1}.\n"
    )
    assert not out.exists()
    done = run(*arguments, "--save-minutes", "1", "--save-every", "70")  # which change nothing about the result
    assert (done.code, done.out) == (0, f"{out}\n")
    assert done.err.startswith(f"Continuing at step {step + 1} of 78.\n")
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [point["step"] for point in points(whole)] == list(range(3, 79, 3))
    assert points(out) == points(whole)
    assert not work.exists()


def stop_at_step(monkeypatch, n: int) -> None:
    """Ctrl-C arrives in the nth step from now on."""

    def step(self, *arguments):
        steps.append(1)
        if len(steps) == n:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    steps: list[int] = []
    original = trainer._Trainer.training_step
    monkeypatch.setattr(trainer._Trainer, "training_step", step)


def test_restart_discards_only_a_run_with_other_settings(run, material, tmp_path, monkeypatch):
    write_checkpoint(start(material), tmp_path / "aligned")
    other = finetune_arguments(material, tmp_path / "aligned", tmp_path / "out", "--seed", "1")
    command = finetune_arguments(material, tmp_path / "aligned", tmp_path / "out", "--restart")
    for arguments, begins in ((other, 1), (command, 1), (command, 6)):
        stop_at_step(monkeypatch, 5)
        stopped = run(*arguments)
        monkeypatch.undo()
        assert stopped.code == 130
        assert ("Continuing at step" in stopped.err) == (begins > 1)
        last = begins + 4
        assert f"Stopped at step {last} of 78, saved. The same command continues at step {last + 1}." in stopped.err


def test_an_interruption_before_the_first_step_says_nothing_of_another_run(run, material, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    write_checkpoint(start(material), tmp_path / "aligned")
    (tmp_path / "out.training" / "checkpoint-4").mkdir(parents=True)
    complete_step(tmp_path / "out.training" / "checkpoint-4", open_loss=0.5)
    monkeypatch.setattr("edge_llava.training.stages.read_conversations", interrupt)
    done = run(*finetune_arguments(material, tmp_path / "aligned", tmp_path / "out", "--restart"))
    assert (done.code, done.out, done.err.strip()) == (130, "", "interrupted")


@pytest.mark.parametrize(("n", "has_loss"), [(2, False), (5, True)])
def test_a_stopped_run_prints_json_too(run, material, tmp_path, monkeypatch, n, has_loss):
    """The first point of the loss curve is that of step 3."""
    write_checkpoint(start(material), tmp_path / "aligned")
    stop_at_step(monkeypatch, n)
    stopped = run(*finetune_arguments(material, tmp_path / "aligned", tmp_path / "out", "--json"))
    assert stopped.code == 130
    work = tmp_path / "out.training"
    losses = [json.loads(line)["loss"] for line in (work / "loss.jsonl").read_text().splitlines()]
    assert len(losses) == has_loss
    assert json.loads(stopped.out) == {
        "checkpoint": None, "loss": losses[-1] if losses else None, "step": n, "n_steps": 78,
        "saved": str(work / f"checkpoint-{n}"),
    }  # fmt: skip


def test_an_interruption_says_what_is_saved(run, material, tmp_path, monkeypatch):
    def interrupt(self, *arguments):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    steps: list[int] = []
    original = trainer._Trainer.training_step
    monkeypatch.setattr(trainer._Trainer, "training_step", interrupt)
    write_checkpoint(start(material), tmp_path / "aligned")
    done = run(*finetune_arguments(material, tmp_path / "aligned", tmp_path / "out"))
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith("Step 4 is saved. The same command continues from there.\n\ninterrupted\n")
