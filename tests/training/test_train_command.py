"""`edge-llava train` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edge_llava.home.installation import install_command
from edge_llava.training.starting_point import join

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
    assert "conversations were longer than --max-length and were truncated" in done.err
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
def test_what_is_wrong_is_reported_before_any_work(run, material, tmp_path, more, code, says):
    more = tuple(argument.replace("TOWER", str(material.tower)) for argument in more)
    done = run(*align_arguments(material, tmp_path / "out", *more))
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert not list(tmp_path.iterdir())


def test_faulty_data_is_refused_before_torch_is_loaded(material, tmp_path):
    (tmp_path / "data.json").write_text("{}")
    code = (
        "import sys; from edge_llava.cli import cli\n"
        "try: cli(sys.argv[1:], standalone_mode=False)\n"
        "finally: print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    arguments = align_arguments(material, tmp_path / "out", "--data", str(tmp_path / "data.json"))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n"
    assert "DataError" in done.stderr


def test_missing_extra_prints_the_pip_line(run, material, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_llava.training.find_spec", lambda name: None if name == "peft" else True)
    done = run(*align_arguments(material, tmp_path / "out"))
    assert done.code == 3
    assert install_command("train") in done.err


@pytest.mark.slow
def test_two_processes_train_as_one(material, tmp_path):
    """One or two processes see the same samples per step; with two, each averages over its own tokens, as in LLaVA."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for n_processes, batch in ((1, "4"), (2, "2")):
        arguments = align_arguments(material, tmp_path / str(n_processes), "--batch", batch, "--epochs", "2")
        command = [*launch, "--nproc_per_node", str(n_processes), "-m", "edge_llava.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / str(n_processes)}\n"  # printed once
    curves = ((tmp_path / name / "loss.jsonl").read_text().splitlines() for name in ("1", "2"))
    first, second = ([json.loads(line)["loss"] for line in curve] for curve in curves)
    assert len(first) == 6
    assert second == pytest.approx(first, rel=5e-3)
    start = join(material.tower, material.language, "mlp2x_gelu", 0).model.state_dict()
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("1", "2")]
    (matrix,) = (name for name in weights[0] if name.endswith("linear_2.weight"))
    ways = [(w[matrix].float() - start[f"model.{matrix}"].float()).flatten() for w in weights]
    assert torch.cosine_similarity(*ways, dim=0) > 0.9
