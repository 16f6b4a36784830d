"""`edge-llava train`, as people call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.convert


def align_arguments(material, out: Path, *more: str) -> list[str]:
    return [
        "train", "align", "--tower", str(material.tower), "--language", str(material.language),
        "--data", str(material.images.parent / "with-pictures.json"), "--images", str(material.images), "-o", str(out),
        "--precision", "fp32", *more,
    ]  # fmt: skip


def test_align_says_where_the_checkpoint_is_and_nothing_else(run, material, tmp_path):
    done = run(*align_arguments(material, tmp_path / "out", "--batch", "4"))
    assert (done.code, done.out) == (0, f"{tmp_path / 'out'}\n")
    assert done.err.startswith("align\nlast loss ")
    assert "nan" not in done.err
    again = run(*align_arguments(material, tmp_path / "out"))
    assert (again.code, again.out) == (11, "")
    assert "exists already" in again.err
    replaced = run(*align_arguments(material, tmp_path / "out", "--overwrite", "--json"))
    report = json.loads(replaced.out)
    assert report.keys() == {"checkpoint", "loss", "n_samples", "n_cut"}
    assert (report["checkpoint"], report["n_samples"], report["n_cut"]) == (str(tmp_path / "out"), 12, 0)


def test_finetune_with_adapters(run, material, tmp_path):
    run(*align_arguments(material, tmp_path / "aligned"))
    done = run(
        "train", "finetune", "--checkpoint", tmp_path / "aligned", "--data", material.conversations,
        "--images", material.images, "-o", tmp_path / "out", "--lora", "--lora-rank", 4, "--projector-lr", "1e-4",
        "--max-length", 100, "--keep-features",
    )  # fmt: skip
    assert (done.code, done.out) == (0, f"{tmp_path / 'out'}\n")
    assert "conversations were longer than --max-length and were cut" in done.err
    assert (tmp_path / "out" / "loss.png").is_file()


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--checkpoint", "TOWER"), 2, "or --checkpoint alone"),
        (("--data", "MISSING"), 2, "MISSING"),
        (("--language", "TOWER"), 4, "expected 'llama'"),
        (("--images", "TOWER"), 10, "0.jpg"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(run, material, tmp_path, more, code, says):
    more = tuple(argument.replace("TOWER", str(material.tower)) for argument in more)
    done = run(*align_arguments(material, tmp_path / "out", *more))
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert not list(tmp_path.iterdir())


def test_missing_extra_prints_the_pip_line(run, material, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_llava.training.find_spec", lambda name: None if name == "peft" else True)
    done = run(*align_arguments(material, tmp_path / "out"))
    assert done.code == 3
    assert "pip install 'edge-llava[train]'" in done.err


@pytest.mark.slow
def test_two_processes_train_as_one(material, tmp_path):
    """As many samples a step, by one process or two: the same steps, up to the order of sums."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    for n_processes, batch in ((1, "4"), (2, "2")):
        arguments = align_arguments(material, tmp_path / str(n_processes), "--batch", batch, "--epochs", "2")
        command = [*launch, "--num_processes", str(n_processes), "-m", "edge_llava.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / str(n_processes)}\n" * n_processes
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=2e-3) for name in first)
