"""Captions on a cluster of two local workers, one of which is killed."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

import edge_llava
from edge_llava.captioning import cluster
from edge_llava.captioning.caption_folder import caption_folder
from edge_llava.captioning.cluster import Cluster, ClusterAsking
from edge_llava.captioning.cluster_worker import Task
from edge_llava.captioning.job import CaptionJob
from edge_llava.captioning.options import CaptionOptions
from edge_llava.errors import BackendError, BundleError, EdgeLlavaError
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions

ray = pytest.importorskip("ray", reason="needs the extra [cluster]")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray leaves files open
ENGINE = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)
OPTIONS = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=8))


@pytest.fixture
def album(tmp_path):
    directory = tmp_path / "album"
    directory.mkdir()
    for seed in range(40):
        pixels = np.random.default_rng(seed // 2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{seed:02}.png")  # each twice
    (directory / "broken.png").write_bytes(b"no image")
    return directory


def untimed(path):
    return [{**json.loads(line), "seconds": 0} for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_workers_one_of_them_killed(seeded_f32, album, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "home"))
    with edge_llava.load(seeded_f32, ENGINE) as model:
        alone = caption_folder(model, album, tmp_path / "alone.jsonl", options=OPTIONS)
        bundle = model.bundle
    task = Task(seeded_f32, OPTIONS.digest(bundle.manifest, None), OPTIONS, ENGINE)
    killed = []

    def kill_at_five(event):
        if event.done == 5:
            killed.append(asking.process_ids[0])
            os.kill(killed[0], signal.SIGKILL)

    with CaptionJob(album, tmp_path / "cluster.jsonl", bundle, OPTIONS) as job:
        job.check()
        with ClusterAsking(Cluster("local", 2), task) as asking:
            before = set(asking.process_ids)
            job.caption_with(asking, kill_at_five)
            after = set(asking.process_ids)
        report = job.report
    assert len(before) == 2
    assert before - after == set(killed)
    assert len(after) == 2
    assert untimed(tmp_path / "cluster.jsonl") == untimed(tmp_path / "alone.jsonl")
    assert (report.n_captioned, report.n_duplicates) == (alone.n_captioned, alone.n_duplicates) == (20, 20)
    assert [fault.path for fault in report.faults] == ["broken.png"]


def test_a_worker_with_another_bundle_is_refused(seeded_q4, seeded_f32, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "home"))
    bundle = edge_llava.Bundle.open(seeded_f32)
    task = Task(seeded_q4, OPTIONS.digest(bundle.manifest, None), OPTIONS, ENGINE)
    with pytest.raises(BundleError, match=r"seeded-q4 is another bundle there than here\. Copy the same one"):
        ClusterAsking(Cluster("local", 1), task)
    assert not ray.is_initialized()


def test_a_cluster_that_is_not_there(seeded_f32):
    task = Task(seeded_f32, "", OPTIONS, ENGINE)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"):
        with pytest.raises(BackendError, match=rf"no Ray cluster at {address}: .*HOST:PORT"):
            ClusterAsking(Cluster(address, 1), task)


def test_an_image_that_ends_its_workers_is_at_fault_and_no_other(seeded_f32, album, tmp_path, monkeypatch):
    """Other questions wait at the same worker, and must be answered by the next one."""

    class Fragile(cluster.Worker):
        def answer(self, pixels, sha256):
            if pixels[:2].max() == 0:
                os._exit(1)
            return super().answer(pixels, sha256)

    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cluster, "Worker", Fragile)
    pixels = np.zeros((20, 30, 3), np.uint8)
    for seed in (0, 20):
        pixels[3] = seed
        Image.fromarray(pixels).save(album / f"{seed:02}.png")
    bundle = edge_llava.Bundle.open(seeded_f32)
    task = Task(seeded_f32, OPTIONS.digest(bundle.manifest, None), OPTIONS, ENGINE)
    with CaptionJob(album, tmp_path / "cluster.jsonl", bundle, OPTIONS) as job:
        with ClusterAsking(Cluster("local", 2), task) as asking:
            job.caption_with(asking)
        report = job.report
    assert [fault.path for fault in report.faults] == ["00.png", "20.png", "broken.png"]
    assert "two workers ended while they answered about it: " in report.faults[0].reason
    assert report.n_captioned + report.n_duplicates == 38


def test_workers_that_end_at_once_end_the_run(seeded_f32, tmp_path, monkeypatch):
    class Stillborn(cluster.Worker):
        def __init__(self, task):
            os._exit(1)

    monkeypatch.setattr(cluster, "Worker", Stillborn)
    with pytest.raises(EdgeLlavaError, match="a worker of the cluster failed: ") as raised:
        ClusterAsking(Cluster("local", 1), Task(seeded_f32, "", OPTIONS, ENGINE))
    assert type(raised.value) is EdgeLlavaError
    assert not ray.is_initialized()


def test_workers_for_which_there_is_no_room(seeded_f32, monkeypatch):
    monkeypatch.setattr(cluster, "_PLACE_S", 1.0)
    task = Task(seeded_f32, "", OPTIONS, ENGINE)
    wanted, there = "2 workers with 1 CPU and 1000 GPUs each", "2 CPUs and [0-9]+ GPUs?"
    says = rf"at local had no room within 1 s for {wanted}\. It has {there}, of which {there} are free\."
    with pytest.raises(BackendError, match=says):
        ClusterAsking(Cluster("local", 2, n_gpus=1000), task)
    assert not ray.is_initialized()
