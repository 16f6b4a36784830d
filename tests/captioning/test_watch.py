from __future__ import annotations

import json
import os
import shutil
import threading
import time

import pytest

import edge_llava
from edge_llava.captioning.job import CaptionJob
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.watch import Watch
from edge_llava.errors import ImageError
from edge_llava.home.files import digest_file
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions

OPTIONS = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=4), watch=True)
LONG_AGO = time.time() - 1000


@pytest.fixture(scope="module")
def model(seeded_f32, tmp_path_factory):
    options = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_LLAVA_HOME", str(tmp_path_factory.mktemp("home")))
        with edge_llava.load(seeded_f32, options) as opened:
            yield opened


class Steps(threading.Event):
    """A stop that does one thing between two looks, and is set after the last."""

    def __init__(self, *actions):
        super().__init__()
        self._actions, self.waited = list(actions), []

    def wait(self, timeout=None):
        self.waited.append(timeout)
        if self._actions:
            self._actions.pop(0)()
        else:
            self.set()
        return self.is_set()


def nothing():
    pass


@pytest.fixture
def watch(model, tmp_path):
    """watch(*actions, **options) -> the rounds in tmp_path/inbox, each as (captioned, faulty), and the job's report."""
    (tmp_path / "inbox").mkdir(exist_ok=True)

    def run(*actions, out=tmp_path / "out.jsonl", **options):
        options = CaptionOptions(**{**{f: getattr(OPTIONS, f) for f in ("prompt", "sampling", "watch")}, **options})
        with CaptionJob(tmp_path / "inbox", out, model.bundle, options) as job:
            rounds = list(Watch(job).rounds(model, Steps(*actions)))
            return [(r.captioned, tuple(fault.path for fault in r.faults)) for r in rounds], job.report

    return run


def age(path):
    os.utime(path, (LONG_AGO, LONG_AGO))


def test_images_are_captioned_when_they_have_stopped_changing(watch, tmp_path, save_noise):
    inbox = tmp_path / "inbox"
    save_noise(tmp_path / "whole.png", 1)
    data = (tmp_path / "whole.png").read_bytes()

    def grow(n):
        return lambda: (inbox / "slow.png").write_bytes(data[:n])

    rounds, report = watch(
        lambda: save_noise(inbox / "a.png", 2),
        grow(300),
        grow(600),  # a.png has stayed as it was
        grow(900),
        grow(len(data)),
        nothing,
        lambda: shutil.copy(inbox / "a.png", tmp_path / "inbox" / "sub.png"),
        nothing,
    )
    assert rounds == [(("a.png",), ()), (("slow.png",), ()), (("sub.png",), ())]
    assert (report.n_captioned, report.n_duplicates, report.faults, report.n_truncated) == (2, 1, (), 0)


def test_an_end_that_is_missing_is_waited_for(watch, tmp_path, save_noise):
    inbox = tmp_path / "inbox"
    data = save_noise(tmp_path / "whole.png", 1).read_bytes()
    half = inbox / "half.png"
    rounds, report = watch(
        lambda: half.write_bytes(data[: len(data) * 3 // 4]),
        *[nothing] * 4,
        lambda: half.write_bytes(data),
        nothing,
    )
    assert (rounds, report.faults, report.n_truncated) == ([(("half.png",), ())], (), 0)
    later = inbox / "later.png"
    rounds, report = watch(
        lambda: later.write_bytes(data[: len(data) * 3 // 4]),
        *[nothing] * 3,
        lambda: age(later),
        nothing,
    )
    assert (rounds, report.n_earlier, report.n_truncated) == ([(("later.png",), ())], 1, 1)


def test_a_file_server_whose_clock_is_ahead(watch, tmp_path, save_noise):
    data = save_noise(tmp_path / "whole.png", 1).read_bytes()
    half, bad = tmp_path / "inbox" / "half.png", tmp_path / "inbox" / "bad.png"

    def write():
        half.write_bytes(data[: len(data) * 3 // 4])
        bad.write_bytes(b"no image")
        for path in (half, bad):
            os.utime(path, (time.time() + 30,) * 2)

    rounds, report = watch(write, *[nothing] * 3, lambda: half.write_bytes(data), nothing)
    assert (rounds, report.faults, report.n_truncated) == ([(("half.png",), ())], (), 0)


def test_what_is_no_image_is_told_once_and_only_when_it_is_finished(watch, tmp_path, save_noise):
    inbox = tmp_path / "inbox"
    bad, directory = inbox / "bad.png", inbox / "dir.png"
    rounds, report = watch(
        lambda: bad.write_bytes(b"no image"),
        *[nothing] * 3,
        lambda: age(bad),
        *[nothing] * 3,
        lambda: save_noise(inbox / "a.png", 1),
        nothing,
        lambda: save_noise(bad, 2),  # repaired
        nothing,
        lambda: directory.symlink_to("nowhere"),
        *[nothing] * 2,
    )
    assert rounds == [((), ("bad.png",)), (("a.png",), ()), (("bad.png",), ()), ((), ("dir.png",))]
    assert [fault.path for fault in report.faults] == ["dir.png"]


def test_images_that_are_removed_and_come_again(watch, tmp_path, save_noise):
    inbox = tmp_path / "inbox"
    save_noise(inbox / "a.png", 1)
    save_noise(inbox / "b.png", 2)
    rounds, report = watch(
        (inbox / "b.png").unlink,  # before it is captioned
        nothing,
        (inbox / "a.png").unlink,
        nothing,
        lambda: save_noise(inbox / "a.png", 1),  # the same bytes
        nothing,
        lambda: save_noise(inbox / "a.png", 3),
        nothing,
    )
    assert rounds == [(("a.png",), ()), (("a.png",), ())]
    assert (report.n_captioned, report.n_earlier, report.faults) == (2, 0, ())


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_watch_resumes_and_writes_beside(watch, tmp_path, save_noise, model, name):
    inbox, out = tmp_path / "inbox", tmp_path / name
    save_noise(inbox / "a.png", 1)
    more = {"out": out, "sidecars": True, "describe": "image"}
    first, report = watch(nothing, *[nothing] * 3, **more)
    assert (first, report.n_sidecars, report.n_descriptions) == ([(("a.png",), ())], 1, 1)
    described = digest_file(inbox / "a.png")
    # a.jpg next to a.png: the text of the latter has the short name already
    second, report = watch(nothing, lambda: shutil.copy(inbox / "a.png", inbox / "a.jpg"), *[nothing] * 4, **more)
    assert (second, report.n_earlier, report.n_duplicates) == ([(("a.jpg",), ())], 1, 1)
    assert digest_file(inbox / "a.png") == described
    assert sorted(path.name for path in inbox.iterdir()) == ["a.jpg", "a.jpg.txt", "a.png", "a.txt"]
    assert watch(*[nothing] * 4, **more)[0] == []
    assert out.read_bytes().count(b"\n") == 2 + (name == "out.csv")


def test_an_empty_folder_can_be_watched_and_leaves_no_output(watch, tmp_path, model):
    rounds, report = watch(nothing, nothing)
    assert (rounds, report.n_images) == ([], 0)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ImageError, match="contains no images"):
        CaptionJob(tmp_path / "inbox", None, model.bundle, CaptionOptions("What?"))


def test_a_folder_that_disappears_is_told_once(watch, tmp_path, save_noise):
    inbox = tmp_path / "inbox"
    rounds, _ = watch(
        lambda: inbox.rename(tmp_path / "away"),
        *[nothing] * 3,
        lambda: (tmp_path / "away").rename(inbox),
        lambda: save_noise(inbox / "a.png", 1),
        nothing,
    )
    assert rounds == [((), ("inbox",)), (("a.png",), ())]


def test_a_folder_that_is_slow_to_search_is_searched_less_often(model, tmp_path, monkeypatch):
    stop = Steps()
    with CaptionJob(tmp_path, tmp_path / "out.jsonl", model.bundle, OPTIONS) as job:
        ticks = iter((0.0, 5.0))
        monkeypatch.setattr("edge_llava.captioning.watch.time.perf_counter", lambda: next(ticks))
        watch = Watch(job, interval_s=3)
        monkeypatch.setattr(watch, "_look", lambda: ([], ()))
        assert list(watch.rounds(model, stop)) == []
    assert stop.waited == [50.0]


def test_a_watch_that_is_interrupted_keeps_its_lines(model, tmp_path, save_noise):
    for seed in range(3):
        save_noise(tmp_path / f"{seed}.png", 400 + seed)

    def stop_at_one(event):
        if event.done == 1:
            raise KeyboardInterrupt

    with CaptionJob(tmp_path, tmp_path / "out.jsonl", model.bundle, OPTIONS) as job:
        with pytest.raises(KeyboardInterrupt):
            list(Watch(job).rounds(model, Steps(*[nothing] * 3), stop_at_one))
        assert job.report.n_captioned == 1
    assert [json.loads(line)["path"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["0.png"]
