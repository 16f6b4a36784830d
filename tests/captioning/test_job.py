from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import edge_llava
from edge_llava.captioning import reading
from edge_llava.captioning.caption_folder import caption_folder
from edge_llava.captioning.job import CaptionJob
from edge_llava.captioning.options import CaptionOptions
from edge_llava.errors import BackendError, ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.home.files import digest_file
from edge_llava.runtime.engine.answer import ENGINE_THREAD
from edge_llava.runtime.options import DecoderOptions, EngineOptions, SamplingOptions
from edge_llava.runtime.vision.image import Image as OpenedImage
from edge_llava.runtime.vision.projector import Projector

pytestmark = pytest.mark.convert
FRESH_SEEDS = itertools.count(1_000)
ONE_THREAD = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)
GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)
OPTIONS = CaptionOptions(prompt="What?", sampling=GREEDY)
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", 'a "b" \\']}}, "required": ["colour"]}


@pytest.fixture(scope="module")
def model(seeded_f32, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_LLAVA_HOME", str(tmp_path_factory.mktemp("home")))
        with edge_llava.load(seeded_f32, ONE_THREAD) as opened:
            yield opened


def lines(directory):
    return [json.loads(line) for line in (directory / "captions.jsonl").read_text(encoding="utf-8").splitlines()]


def captions(directory):
    return {line["path"]: line["caption"] for line in lines(directory)}


def untimed(directory):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(directory)]


def figures(report):
    return (report.n_captioned, report.n_duplicates, report.n_earlier)


@pytest.mark.parametrize("encode_ahead", [True, False, None])
def test_every_image_has_its_own_conversation(model, seeded_f32, album, encode_ahead):
    report = caption_folder(model, album, options=dataclasses.replace(OPTIONS, encode_ahead=encode_ahead))
    assert figures(report) == (3, 0, 0)
    assert (report.n_images, report.faults, report.out) == (3, (), album / "captions.jsonl")
    assert [line["path"] for line in lines(album)] == ["a.png", "b/c.png", "b/d.png"]
    with edge_llava.load(seeded_f32, ONE_THREAD) as fresh:  # which has computed nothing about these images
        for line in lines(album):
            tokens = fresh.session(GREEDY).ask("What?", image=album / line["path"])
            assert line["caption"] == "".join(token.text for token in tokens).strip() != ""
    for line in lines(album):
        assert line["sha256"] == digest_file(album / line["path"])
        assert (line["n_tokens"], line["finish_reason"]) == (8, "length")
        assert line["seconds"] > 0
        assert (line["model"], line["prompt"]) == (model.bundle.name, "What?")
    assert len(set(captions(album).values())) == 3


@pytest.mark.parametrize(
    ("encode_ahead", "on_gpu", "thread"),
    [
        (True, False, "edge-llava-ahead_0"),
        (False, True, ENGINE_THREAD),
        (None, False, ENGINE_THREAD),
        (None, True, "edge-llava-ahead_0"),
    ],
)
def test_which_thread_encodes(model, album, monkeypatch, encode_ahead, on_gpu, thread):
    start, seen = model.tower.start, []

    def note_thread(*arguments, **options):
        seen.append(threading.current_thread().name)
        return start(*arguments, **options)

    monkeypatch.setattr(model.tower, "start", note_thread)
    monkeypatch.setattr(type(model), "on_gpu", on_gpu)
    caption_folder(model, album, options=dataclasses.replace(OPTIONS, encode_ahead=encode_ahead))
    assert seen == [thread] * 3


@pytest.fixture
def several(seeded_f32):
    """The F32 demo, open for three at a time."""
    with edge_llava.load(seeded_f32, dataclasses.replace(ONE_THREAD, parallel=3)) as opened:
        yield opened


def test_several_at_a_time_write_the_same_lines(model, several, album, save_noise):
    """In the same order, with duplicates of what is still being asked about, and of what cannot be read."""
    for seed in range(6):
        save_noise(album / f"c{seed}.png", 100 + seed // 2)  # each twice
    (album / "d.png").write_bytes(b"no image")
    (album / "e.png").write_bytes(b"no image")
    first = caption_folder(model, album, album / "one.jsonl", options=OPTIONS)
    second = caption_folder(several, album, album / "three.jsonl", options=OPTIONS)
    one, three = (
        [{**json.loads(line), "seconds": 0} for line in (album / name).read_text().splitlines()]
        for name in ("one.jsonl", "three.jsonl")
    )
    assert one == three
    assert len(one) == 9
    assert figures(first) == figures(second) == (6, 3, 0)
    assert [fault.path for fault in first.faults] == [fault.path for fault in second.faults] == ["d.png", "e.png"]
    assert several.metrics.steps_total < model.metrics.steps_total


def test_several_at_a_time_that_are_stopped(several, album, save_noise):
    """What was not waited for ends, and the next run does it again."""
    for seed in range(4):
        save_noise(album / f"c{seed}.png", 200 + seed)

    def stop(event):
        if event.stage == "captioning" and event.done == 2:
            raise KeyboardInterrupt

    options = dataclasses.replace(OPTIONS, sampling=dataclasses.replace(GREEDY, max_new_tokens=200))
    with pytest.raises(KeyboardInterrupt):
        caption_folder(several, album, options=options, progress=stop)
    assert len(lines(album)) == 2
    assert (several.metrics.running, several.metrics.queued) == (0, 0)
    assert figures(caption_folder(several, album, options=options)) == (5, 0, 2)


def test_a_second_run_changes_nothing(model, album, monkeypatch):
    caption_folder(model, album, options=OPTIONS)
    before = (album / "captions.jsonl").read_bytes()
    monkeypatch.setattr(model, "session", None)  # no question may be asked
    monkeypatch.setattr(model.tower, "start", None)
    report = caption_folder(model, album, options=OPTIONS)
    assert figures(report) == (0, 0, 3)
    assert (album / "captions.jsonl").read_bytes() == before


def test_new_and_changed_images_are_added(model, album, save_noise):
    caption_folder(model, album, options=OPTIONS)
    before = (album / "captions.jsonl").read_bytes()
    save_noise(album / "a.png", 7)  # changed
    save_noise(album / "b" / "e.png", 8)
    assert figures(caption_folder(model, album, options=OPTIONS)) == (2, 0, 2)
    assert (album / "captions.jsonl").read_bytes().startswith(before)
    assert [line["path"] for line in lines(album)[3:]] == ["a.png", "b/e.png"]
    assert figures(caption_folder(model, album, options=OPTIONS)) == (0, 0, 4)


def test_same_bytes_are_asked_about_once(model, album):
    for name in ("a-copy.png", "z.png"):
        shutil.copy(album / "a.png", album / name)
    assert figures(caption_folder(model, album, options=OPTIONS)) == (3, 2, 0)
    duplicates = {line["path"]: line.get("duplicate_of") for line in lines(album)}
    assert duplicates == {
        "a-copy.png": None,
        "a.png": "a-copy.png",
        "b/c.png": None,
        "b/d.png": None,
        "z.png": "a-copy.png",
    }
    assert len({captions(album)[name] for name in ("a-copy.png", "a.png", "z.png")}) == 1
    (album / "z.png").rename(album / "y.png")
    assert figures(caption_folder(model, album, options=OPTIONS)) == (0, 1, 4)
    assert lines(album)[-1]["duplicate_of"] == "a-copy.png"
    assert figures(caption_folder(model, album, options=OPTIONS)) == (0, 0, 5)


def test_bad_files_are_faults_and_never_the_end(model, album):
    (album / "0.png").write_bytes(b"not an image")
    (album / "0-again.png").write_bytes(b"not an image")
    (album / "empty.jpg").write_bytes(b"")
    (album / "torn.png").write_bytes((album / "a.png").read_bytes()[:60])
    Image.new("F", (4, 4)).save(album / "float.tif")
    report = caption_folder(model, album, options=OPTIONS)
    assert figures(report) == (3, 0, 0)
    assert {fault.path: fault.reason.split(".")[0] for fault in report.faults} == {
        "0-again.png": "it is not an image that PIL can read",
        "0.png": "it is not an image that PIL can read",
        "empty.jpg": "it is empty",
        "float.tif": "it has float pixels",
        "torn.png": report.faults[-1].reason.split(".", maxsplit=1)[0],
    }
    assert "cannot be decoded" in report.faults[-1].reason
    assert str(album) not in "".join(fault.reason for fault in report.faults)
    again = caption_folder(model, album, options=OPTIONS)  # they are retried, and reported again
    assert (figures(again), len(again.faults)) == ((0, 0, 3), 5)


def test_only_bad_files(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    report = caption_folder(model, tmp_path)
    assert (figures(report), len(report.faults)) == ((0, 0, 0), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="contains no images"):
        caption_folder(model, tmp_path)


def test_an_image_that_changes_while_it_is_read_gets_no_caption(model, album, save_noise, monkeypatch):
    def open_late(path, alpha):
        if path.name == "c.png":
            save_noise(path, 99)
        return OpenedImage.open(path, alpha=alpha)

    shutil.copy(album / "b" / "c.png", album / "b" / "same.png")  # as it was, and stays
    monkeypatch.setattr(reading, "Image", SimpleNamespace(open=open_late))
    report = caption_folder(model, album, options=OPTIONS)
    assert [(fault.path, fault.reason[:10]) for fault in report.faults] == [("b/c.png", "it changed")]
    assert list(captions(album)) == ["a.png", "b/d.png", "b/same.png"]
    monkeypatch.undo()
    assert figures(caption_folder(model, album, options=OPTIONS)) == (1, 0, 3)


@pytest.mark.parametrize("encode_ahead", [True, False])
def test_truncated_images_are_captioned_and_marked(model, album, encode_ahead):
    data = (album / "a.png").read_bytes()
    (album / "cut.png").write_bytes(data[: len(data) * 3 // 4])
    (album / "cut-again.png").write_bytes(data[: len(data) * 3 // 4])
    options = dataclasses.replace(OPTIONS, encode_ahead=encode_ahead)
    report = caption_folder(model, album, options=options)
    assert (figures(report), report.n_truncated, report.faults) == ((4, 1, 0), 1, ())
    marked = {line["path"]: line.get("truncated") for line in lines(album)}
    assert marked == {"a.png": None, "b/c.png": None, "b/d.png": None, "cut-again.png": True, "cut.png": True}
    assert figures(caption_folder(model, album, options=options)) == (0, 0, 5)


def test_several_folders_and_files_have_one_output(model, album, save_noise):
    save_noise(album / "e" / "f.png", 11)
    report = caption_folder(model, [album / "b", album / "e", album / "a.png"], options=OPTIONS)
    assert (figures(report), report.out) == ((4, 0, 0), album / "captions.jsonl")
    assert [line["path"] for line in lines(album)] == ["a.png", "b/c.png", "b/d.png", "e/f.png"]
    save_noise(album / "g.png", 12)
    assert figures(caption_folder(model, album, options=OPTIONS)) == (1, 0, 4), (
        "the folder resumes where its parts ended"
    )
    with pytest.raises(ValueError, match="nothing to caption"):
        caption_folder(model, [], options=OPTIONS)


def test_a_nas_folder_with_links(model, album, save_noise):
    save_noise(album / "@eaDir" / "a.png" / "SYNOPHOTO_THUMB_M.png", 13)
    (album / "b" / "up").symlink_to("../..")
    (album / "raw.dng").write_bytes(b"II*")
    report = caption_folder(model, album, options=OPTIONS)
    assert figures(report) == (3, 0, 0)
    assert (report.unsupported, report.n_links_out, report.passed_over) == ({".dng": 1}, 1, ("@eaDir",))


def test_answers_about_transparent_images_are_kept_apart_by_alpha(model, album):
    manifest = model.manifest
    digests = {OPTIONS.digest(manifest, None, alpha) for alpha in ("white", "drop")}
    assert len(digests) == 2
    assert OPTIONS.digest(manifest, None) == OPTIONS.digest(manifest, None, "white")
    assert OPTIONS.digest(manifest, None, max_tiles=5) not in digests
    noise = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    rgba = np.dstack([noise, np.zeros((20, 30), np.uint8)])
    Image.fromarray(rgba).save(album / "clear.png")
    caption_folder(model, album, options=OPTIONS)
    white = "".join(
        t.text for t in model.session(GREEDY).ask("What?", image=Image.new("RGB", (30, 20), "white"))
    ).strip()
    assert captions(album)["clear.png"] == white
    with pytest.raises(EdgeLlavaError, match="or --alpha differ"):
        CaptionJob(album, None, model.bundle, OPTIONS, alpha="drop")


def test_an_image_that_disappears_before_its_turn(model, album):
    def remove_two(event):
        (album / "b" / "c.png").unlink(missing_ok=True)
        (album / "b" / "d.png").unlink(missing_ok=True)

    (album / "b" / "c.png").write_bytes((album / "a.png").read_bytes())
    report = caption_folder(model, album, options=OPTIONS, progress=remove_two)
    assert [fault.reason for fault in report.faults] == ["it cannot be read: No such file or directory."] * 2
    assert figures(report) == (1, 0, 0)


@pytest.fixture
def damage(monkeypatch):
    """damage(*numbers) makes the projector return undefined values for the images with these numbers, from 0."""

    def replace(*numbers):
        project, count = Projector.__call__, itertools.count()

        def call(self, features):
            return project(self, features) * np.float32("nan" if next(count) in numbers else 1)

        monkeypatch.setattr(Projector, "__call__", call)

    return replace


@pytest.fixture
def fresh(tmp_path, save_noise):
    """A folder of 0.png to 3.png, which no other test asks about, so that they are encoded."""
    for number in range(4):
        save_noise(tmp_path / "fresh" / f"{number}.png", next(FRESH_SEEDS))
    return tmp_path / "fresh"


@pytest.mark.parametrize("encode_ahead", [True, False])
def test_an_engine_failure_on_one_image_is_a_fault_and_the_run_continues(model, fresh, damage, encode_ahead):
    damage(0, 2)
    shutil.copy(fresh / "0.png", fresh / "0-again.png")
    report = caption_folder(model, fresh, options=dataclasses.replace(OPTIONS, encode_ahead=encode_ahead))
    assert list(captions(fresh)) == ["1.png", "3.png"]
    assert [fault.path for fault in report.faults] == ["0-again.png", "0.png", "2.png"]
    assert all(fault.reason.startswith("the tower gave infinite or undefined") for fault in report.faults)


@pytest.mark.parametrize("encode_ahead", [True, False])
def test_an_engine_failure_on_two_images_in_a_row_ends_the_run(model, fresh, damage, encode_ahead):
    damage(1, 2)
    (fresh / "1-torn.png").write_bytes(b"what no engine sees comes between")
    with pytest.raises(BackendError, match="the tower gave infinite or undefined numbers"):
        caption_folder(model, fresh, options=dataclasses.replace(OPTIONS, encode_ahead=encode_ahead))
    assert list(captions(fresh)) == ["0.png"]


def test_an_engine_failure_on_the_only_image_decides_the_exit_code(model, fresh, damage):
    damage(0)
    for name in ("1.png", "2.png", "3.png"):
        (fresh / name).unlink()
    with CaptionJob(fresh, fresh / "captions.jsonl", model.bundle, OPTIONS) as job:
        job.caption(model)
        assert figures(job.report) == (0, 0, 0)
    assert job.first_failure.exit_code == BackendError.exit_code


def test_an_unreadable_output_is_not_a_fault_of_an_image(model, album):
    caption_folder(model, album, options=OPTIONS)
    shutil.copy(album / "a.png", album / "copy.png")
    with (
        CaptionJob(album, album / "captions.jsonl", model.bundle, OPTIONS) as job,
        pytest.MonkeyPatch.context() as patch,
    ):
        job.check()
        patch.setattr(job._file._file, "_file", BadDisk())
        with pytest.raises(EdgeLlavaError, match=r"captions\.jsonl cannot be read: Input/output error"):
            job.caption(model)
        assert job.report.faults == ()
        patch.undo()
    assert len(lines(album)) == 3


class BadDisk:
    def seek(self, *unused):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_another_bundle_is_never_mixed_in(model, album, seeded_q4):
    caption_folder(model, album, options=OPTIONS)
    before = (album / "captions.jsonl").read_bytes()
    with edge_llava.load(seeded_q4, ONE_THREAD) as other:
        with pytest.raises(EdgeLlavaError, match="was begun with other settings"):
            caption_folder(other, album, options=OPTIONS)
        assert (album / "captions.jsonl").read_bytes() == before
        report = caption_folder(other, album, options=CaptionOptions("What?", GREEDY, overwrite=True))
    assert figures(report) == (3, 0, 0)
    assert len(lines(album)) == 3


@pytest.mark.parametrize(
    "options",
    [
        CaptionOptions("Why?", GREEDY),
        CaptionOptions("What?", SamplingOptions(temperature=0.5, max_new_tokens=8)),
        CaptionOptions("What?", SamplingOptions(temperature=0, seed=1, max_new_tokens=8)),
        CaptionOptions("What?", GREEDY, schema=SCHEMA),
    ],
)
def test_another_question_is_never_mixed_in(model, album, options):
    caption_folder(model, album, options=OPTIONS)
    with pytest.raises(EdgeLlavaError, match="was begun with other settings"):
        caption_folder(model, album, options=options)


def test_another_number_of_visual_tokens_is_never_mixed_in(model, seeded_f32, album):
    caption_folder(model, album, options=OPTIONS)
    with edge_llava.load(seeded_f32, dataclasses.replace(ONE_THREAD, visual_tokens=8)) as fewer:
        with pytest.raises(EdgeLlavaError, match="was begun with other settings"):
            caption_folder(fewer, album, options=OPTIONS)
        forced = dataclasses.replace(OPTIONS, overwrite=True)
        assert figures(caption_folder(fewer, album, options=forced)) == (3, 0, 0)
        assert figures(caption_folder(fewer, album, options=OPTIONS)) == (0, 0, 3)


def test_a_longer_limit_goes_on(model, album):
    caption_folder(model, album, options=OPTIONS)
    longer = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=9))
    assert figures(caption_folder(model, album, options=longer)) == (0, 0, 3)


def test_a_prompt_that_does_not_fit_is_a_fault_of_every_image(seeded_f32, album):
    options = EngineOptions(decoder=DecoderOptions(n_threads=1, n_ctx=64), n_vision_threads=1)
    with (
        edge_llava.load(seeded_f32, options) as small,
        CaptionJob(album, album / "captions.jsonl", small.bundle, OPTIONS) as job,
    ):
        job.check()
        job.caption(small)
        report = job.report
    assert (figures(report), len(report.faults)) == ((0, 0, 0), 3)
    assert isinstance(job.first_failure, ContextOverflow)


def test_answers_follow_a_schema(model, album):
    options = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=60), SCHEMA, sidecars=True)
    report = caption_folder(model, album, options=options)
    assert (figures(report), report.n_sidecars) == ((3, 0, 0), 3)
    for line in lines(album):
        assert line["json"]["colour"] in ("red", 'a "b" \\')
        assert "caption" not in line
        assert json.loads((album / line["path"]).with_suffix(".json").read_text()) == line["json"]


def test_a_grammar_that_allows_nothing_more_is_a_fault_of_every_image(model, album):
    sampling = SamplingOptions(grammar='root ::= "a" "\\x00"')
    report = caption_folder(model, album, options=CaptionOptions(prompt="What?", sampling=sampling))
    assert figures(report) == (0, 0, 0)
    assert [fault.path for fault in report.faults] == ["a.png", "b/c.png", "b/d.png"]
    assert all("allows no token" in fault.reason for fault in report.faults)


def test_json_that_is_cut_is_a_fault_and_done_later(model, album):
    short = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=3), SCHEMA)
    report = caption_folder(model, album, options=short)
    assert figures(report) == (0, 0, 0)
    assert [fault.reason.split(",")[0] for fault in report.faults] == ["its answer was cut at 3 tokens"] * 3
    longer = CaptionOptions("What?", SamplingOptions(temperature=0, max_new_tokens=60), SCHEMA)
    assert figures(caption_folder(model, album, options=longer)) == (3, 0, 0)


def test_sidecars_of_earlier_runs_are_made_up_for(model, album):
    shutil.copy(album / "a.png", album / "b" / "copy.png")
    caption_folder(model, album, options=OPTIONS)
    (album / "b" / "c.txt").write_text("by hand")
    report = caption_folder(model, album, options=CaptionOptions("What?", GREEDY, sidecars=True))
    assert (figures(report), report.n_sidecars, report.n_sidecars_kept) == ((0, 0, 4), 3, 1)
    assert (album / "b" / "copy.txt").read_text() == captions(album)["a.png"] + "\n"
    assert (album / "b" / "c.txt").read_text() == "by hand"
    forced = caption_folder(model, album, options=CaptionOptions("What?", GREEDY, sidecars=True, overwrite=True))
    assert (figures(forced), forced.n_sidecars) == ((0, 0, 4), 1)
    assert (album / "b" / "c.txt").read_text() == captions(album)["b/c.png"] + "\n"


def test_a_sidecar_that_cannot_be_written_costs_no_caption(model, album):
    (album / "a.txt").mkdir()
    report = caption_folder(model, album, options=CaptionOptions("What?", GREEDY, sidecars=True))
    assert (figures(report), report.n_sidecars) == ((3, 0, 0), 2)
    (fault,) = report.faults
    assert (fault.path, fault.reason) == ("a.png", "its sidecar cannot be written: Is a directory")


def test_progress(model, album):
    events = []
    caption_folder(model, album, options=OPTIONS, progress=events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [("captioning", n, 3) for n in range(4)]
    caption_folder(model, album, options=OPTIONS, progress=events.append)
    assert [(event.stage, event.done) for event in events[4:]] == [("looking for what is done", n) for n in (1, 2, 3)]


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_with_the_same_result(model, album, save_noise, tmp_path):
    for seed in range(10, 14):
        save_noise(album / f"{seed}.png", seed)
    shutil.copytree(album, tmp_path / "whole")
    caption_folder(model, tmp_path / "whole", options=OPTIONS)

    def stop_at_two(event):
        if event.stage == "captioning" and event.done == 2:
            raise Stop

    for n_runs in (1, 2, 3):
        with pytest.raises(Stop):
            caption_folder(model, album, options=OPTIONS, progress=stop_at_two)
        assert len(lines(album)) == 2 * n_runs
        assert not [thread for thread in threading.enumerate() if "ahead" in thread.name]
    assert figures(caption_folder(model, album, options=OPTIONS)) == (1, 0, 6)
    assert untimed(album) == untimed(tmp_path / "whole")


def test_a_model_that_is_closed_meanwhile_writes_no_half_answer(seeded_f32, album):
    model = edge_llava.load(seeded_f32, ONE_THREAD)

    def close_at_one(event):
        if event.done == 1:
            model.close()

    with pytest.raises(EdgeLlavaError, match="this model is closed"):
        caption_folder(model, album, options=OPTIONS, progress=close_at_one)
    assert len(lines(album)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": " "}, "not valid text"),
        ({"prompt": "\udcff"}, "not valid text"),
        ({"schema": {"type": "colour"}}, r"json_schema: type must be one of"),
        ({"schema": {"type": "string", "pattern": "(?=a)"}}, r"json_schema: pattern contains '\(\?='"),
        (
            {"schema": {}, "sampling": SamplingOptions(grammar="root ::= [a]")},
            "schema excludes the sampling's own grammar",
        ),
    ],
)
def test_options_are_checked_at_the_border(arguments, says):
    with pytest.raises(ValueError, match=says):
        CaptionOptions(**arguments)
