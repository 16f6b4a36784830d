"""Which saved steps count, and that they are on the disk before they do."""

from __future__ import annotations

import os

import pytest

from edge_llava.training.saved_steps import complete_step, find_saved_step, last_saved_step


def test_an_interrupted_save_is_not_taken_up(tmp_path):
    work = tmp_path / "out.training"
    (work / "checkpoint-2").mkdir(parents=True)
    (work / "checkpoint-2" / "trainer_state.json").touch()
    (work / "checkpoint-2" / "complete").touch()
    (work / "checkpoint-4").mkdir()
    assert find_saved_step(work) == work / "checkpoint-2"
    assert (work / "checkpoint-4").exists(), "another run may be writing it"
    assert last_saved_step(work) == work / "checkpoint-2"
    assert not (work / "checkpoint-4").exists()


@pytest.mark.parametrize("damaged", ["optimizer.pt", "complete", "shards/0.pt"])
def test_a_saved_step_that_lost_files_does_not_count(tmp_path, damaged):
    for step in (2, 4):
        directory = tmp_path / f"checkpoint-{step}"
        (directory / "shards").mkdir(parents=True)
        (directory / "optimizer.pt").write_text("content")
        (directory / "shards" / "0.pt").write_text("content")
        complete_step(directory, open_loss=0.5)
    assert find_saved_step(tmp_path) == tmp_path / "checkpoint-4"
    path = tmp_path / "checkpoint-4" / damaged
    if damaged == "optimizer.pt":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    assert find_saved_step(tmp_path) == tmp_path / "checkpoint-2"


def test_a_saved_step_is_on_the_disk_before_it_is_marked(tmp_path, monkeypatch):
    step = tmp_path / "out.training" / "checkpoint-2"
    (step / "shards").mkdir(parents=True)
    files = [step / "model.safetensors", step / "shards" / "0.pt", step.parent / "loss.jsonl", step.parent / "run.json"]
    for path in files:
        path.write_text("content")

    def sync(descriptor):
        original(descriptor)
        synced.append((os.fstat(descriptor).st_ino, (step / "complete").exists()))

    synced: list[tuple[int, bool]] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", sync)
    complete_step(step, open_loss=0.5)
    before = {inode for inode, is_marked in synced if not is_marked}
    wanted = [*files, step / "open_loss.json", step / "shards", step, step.parent, tmp_path]
    assert before == {path.stat().st_ino for path in wanted}
    after = [inode for inode, is_marked in synced if is_marked]
    assert after == [(step / "complete").stat().st_ino, step.stat().st_ino]
    assert last_saved_step(step.parent) == step
