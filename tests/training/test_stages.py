"""Both stages for a few steps: what changes, what does not, and that stopping costs nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edge_llava.errors import CheckpointError, DataError, TrainingError
from edge_llava.home.line_file import LineFile
from edge_llava.home.lock import hold
from edge_llava.home.progress import ProgressEvent
from edge_llava.training import trainer
from edge_llava.training.lora import LoraOptions
from edge_llava.training.loss_curve import LossCurve
from edge_llava.training.stages import align, finetune
from edge_llava.training.starting_point import join, open_llava

pytestmark = pytest.mark.convert


def start(material, projector="mlp2x_gelu"):
    return join(material.tower, material.language, projector, seed=5)


def parts(llava) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in llava.model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the model that changed; all of a part's tensors did, or none."""
    found = {}
    for name, tensor in before.items():
        part = next(p for p in ("vision_tower", "multi_modal_projector", "language_model", "lm_head") if p in name)
        found.setdefault(part, set()).add(not torch.equal(tensor.half(), after[name]))
    assert all(len(values) == 1 for values in found.values()), found
    return {part for part, values in found.items() if values == {True}}


def test_align_moves_the_projector_alone(material, options):
    llava = start(material)
    before = parts(llava)
    result = align(llava, options)
    assert moved(before, parts(open_llava(options.out))) == {"multi_modal_projector"}
    assert (result.n_samples, result.n_cut) == (12, 0)
    assert result.last_loss == pytest.approx(json.loads(lines(options.out)[-1])["loss"])


def test_finetune_moves_projector_and_language_model(material, options):
    llava = start(material)
    before = parts(llava)
    finetune(llava, replace(options, data=material.conversations))
    after = parts(open_llava(options.out))
    # rows of tokens that the data never shows get no gradient and, without weight decay, stay
    embedding = "model.language_model.embed_tokens.weight"
    seen = (before[embedding].half() != after[embedding]).any(dim=1)
    assert 20 < seen.sum() < len(seen)
    del before[embedding]
    assert moved(before, after) == {"multi_modal_projector", "language_model", "lm_head"}


def test_loss_falls(material, options):
    finetune(start(material), replace(options, n_epochs=20))
    losses = [json.loads(line)["loss"] for line in lines(options.out)]
    assert len(losses) == 60
    assert losses[0] > 6
    assert sum(losses[-5:]) / 5 < 4.5
    assert (options.out / "loss.png").read_bytes().startswith(b"\x89PNG")


def lines(out: Path) -> list[str]:
    return (out / "loss.jsonl").read_text().splitlines()


def points(out: Path) -> list[dict[str, float]]:
    """The curve without its times of day."""
    return [{**json.loads(line), "time": 0} for line in lines(out)]


def test_lora_trains_adapters_and_leaves_a_plain_checkpoint(material, options):
    llava = start(material)
    before = parts(llava)
    finetune(llava, replace(options, lora=LoraOptions(rank=4, alpha=8), n_epochs=4))
    after = parts(open_llava(options.out))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].half(), after[name])}
    matrices = {name for name in before if "language_model.layers" in name and "proj" in name}
    assert changed == matrices | {name for name in before if "multi_modal_projector" in name}


def test_lora_changes_by_a_matrix_of_its_rank(material, options):
    llava = start(material)
    before = parts(llava)
    finetune(llava, replace(options, lora=LoraOptions(rank=2, alpha=4, dropout=0.0)))
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    change = llava.model.state_dict()[name].float() - before[name]
    values = torch.linalg.svdvals(change)
    # the rest is rounding to float16
    assert values[1] > 20 * values[2]


def test_linear_projector_converts(material, options, convert_to):
    llava = start(material, "linear")
    before = parts(llava)
    align(llava, options)
    modes = {path.stat().st_mode & 0o777 for path in options.out.rglob("*") if path.is_file()}
    assert modes == {(options.out / "config.json").stat().st_mode & 0o777}, "some are private whatever the umask"
    tensors = load_file(options.out / "model.safetensors")
    name = "model.multi_modal_projector.linear.weight"
    assert tensors["model.mm_projector.weight"].shape == before[name].shape == (64, 64)
    assert not torch.equal(tensors["model.mm_projector.weight"], before[name].half())
    bundle = convert_to(options.out, quant="F32")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["projector"]["kind"] == "linear"
    assert manifest["parity"]["projector"]["max_abs"] < 1e-4
    assert manifest["parity"]["language"]["tokens_equal"] == manifest["parity"]["language"]["tokens_total"]


def test_kept_features_train_like_images(material, options, tmp_path):
    align(start(material), options)
    align(start(material), replace(options, out=tmp_path / "kept", keep_features=True))
    plain, kept = (load_file(path / "model.safetensors") for path in (options.out, tmp_path / "kept"))
    for name, tensor in plain.items():  # features are kept in half precision
        assert torch.allclose(tensor.float(), kept[name].float(), atol=2e-3), name


def test_gradient_checkpointing_changes_nothing(material, options, tmp_path):
    finetune(start(material), options)
    finetune(start(material), replace(options, out=tmp_path / "again", gradient_checkpointing=True))
    plain, again = (load_file(path / "model.safetensors") for path in (options.out, tmp_path / "again"))
    assert all(torch.allclose(plain[name].float(), again[name].float(), atol=1e-3) for name in plain)


def test_converts(material, options, convert_to):
    finetune(start(material), options)
    bundle = convert_to(options.out, quant="F32")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["parity"]["language"]["tokens_equal"] == manifest["parity"]["language"]["tokens_total"]


def test_progress_says_the_smoothed_loss(material, options):
    events: list[ProgressEvent] = []
    finetune(start(material), options, events.append)
    losses = accumulate((point["loss"] for point in points(options.out)), lambda mean, loss: 0.9 * mean + 0.1 * loss)
    assert [event.detail for event in events] == ["", *(f"loss {loss:.3f}" for loss in list(losses)[:-1]), ""]
    assert {(event.total, event.unit) for event in events} == {(6, "steps")}


def test_another_run_in_the_same_place_is_refused(material, options, monkeypatch):
    monkeypatch.setattr(trainer._Trainer, "training_step", lambda self, *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(start(material), options)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match=r"differs in:\n  - n_epochs\n.*--restart"):
        finetune(start(material), replace(options, n_epochs=1))
    os.truncate(options.out.with_name("out.training") / "run.json", 0)
    with pytest.raises(TrainingError, match=r"differs in:\n  - run\.json, which cannot be read\n.*--restart"):
        finetune(start(material), options)
    finetune(start(material), replace(options, n_epochs=1, restart=True))
    assert options.out.is_dir()


def test_a_nan_loss_stops_and_keeps_the_last_good_step(material, options, tmp_path):
    llava = start(material)
    poisoned = llava.model.lm_head.weight.detach().clone()

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 4 else output

    calls: list[int] = []
    llava.model.lm_head.register_forward_hook(poison)
    with pytest.raises(TrainingError, match=r"loss is nan at step 4 of 6\. The state of checkpoint-2 is kept in"):
        finetune(llava, options)
    kept = load_file(tmp_path / "out.training" / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert poisoned.isfinite().all()


def test_a_nan_gradient_is_not_applied(material, options):
    llava = start(material)
    calls: list[int] = []

    def poison(gradient):
        calls.append(1)
        return gradient * float("inf") if len(calls) == 3 else gradient

    llava.model.lm_head.weight.requires_grad_(True)
    llava.model.lm_head.weight.register_hook(poison)
    with pytest.raises(TrainingError, match="a gradient is not finite at step 3 of 6"):
        finetune(llava, options)
    assert all(parameter.isfinite().all() for parameter in llava.model.parameters())


def test_a_full_disk_while_saving_keeps_the_step_before(material, options, tmp_path, monkeypatch):
    def save(tensors, path, metadata):
        if "checkpoint-4" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    real = trainer.save_file
    monkeypatch.setattr(trainer, "save_file", save)
    with pytest.raises(TrainingError, match=r"step 4 cannot be written: .*No space left.*checkpoint-2 is intact"):
        finetune(start(material), options)
    assert sorted(path.name for path in (tmp_path / "out.training").glob("checkpoint-*")) == ["checkpoint-2"]


def test_a_full_disk_while_the_curve_is_written_says_what_is_kept(material, options, monkeypatch):
    def append(self, line):
        if b'"step": 5' in line:
            raise OSError(28, "No space left on device")
        return real(self, line)

    def draw(self, path, title):
        raise OSError(28, "No space left on device", str(path))

    real = LineFile.append
    monkeypatch.setattr(LineFile, "append", append)
    monkeypatch.setattr(LossCurve, "draw", draw)
    with pytest.raises(TrainingError, match=r"loss of step 5 cannot be written: .*No space.*checkpoint-4 is intact"):
        finetune(start(material), options)


def test_a_full_disk_at_the_end_keeps_the_old_checkpoint(material, options, monkeypatch):
    from edge_llava.training import saving

    options.out.mkdir()
    (options.out / "config.json").write_text("old")

    def write(path, content):
        with open("/dev/full", "w") as file:
            file.write(str(content))

    monkeypatch.setattr(saving, "_write_json", write)
    with pytest.raises(TrainingError, match="cannot be written to"):
        align(start(material), options)
    assert (options.out / "config.json").read_text() == "old"
    assert not options.out.with_name("out.partial").exists()
    monkeypatch.undo()
    events: list[ProgressEvent] = []
    align(start(material), options, events.append)  # all steps are taken
    assert [(event.done, event.total) for event in events] == [(6, 6)]
    assert (options.out / "config.json").read_text() != "old"


def test_a_full_disk_at_the_start_is_reported(material, options, monkeypatch):
    def write(path, text):
        raise OSError(28, "No space left on device", str(path))

    for module in ("stages", "loss_curve"):
        monkeypatch.setattr(f"edge_llava.training.{module}.write_text", write)
        with pytest.raises(TrainingError, match=r"cannot be written: .*No space left on device"):
            align(start(material), options)
        monkeypatch.undo()


def test_no_conversation_is_refused(material, options, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DataError, match="no conversation"):
        finetune(start(material), replace(options, data=tmp_path / "none.json"))


def test_nothing_to_learn_is_refused(material, options):
    with pytest.raises(DataError, match="nothing is left to learn within 5 positions"):
        align(start(material), replace(options, max_length=5))


def test_what_is_not_a_starting_point_is_refused(material, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected 'llama'"):
        join(material.tower, material.tower, "mlp2x_gelu", 0)
    with pytest.raises(CheckpointError, match="CLIP"):
        join(material.language, material.language, "mlp2x_gelu", 0)
    with pytest.raises(CheckpointError):
        open_llava(tmp_path)


def test_two_runs_do_not_train_in_one_directory(material, options):
    work = options.out.with_name(f"{options.out.name}.training")
    with hold(work), pytest.raises(TrainingError, match=r"another run is training in .*out\.training\. Wait"):
        align(start(material), options)
    assert not work.exists()
