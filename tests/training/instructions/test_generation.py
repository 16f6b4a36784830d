"""A whole run against a server on this machine: order, journal, rejections, giving up, resuming."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from edge_llava.errors import DataError
from edge_llava.home.line_file import LineFile
from edge_llava.home.progress import ProgressEvent
from edge_llava.remote.chat_client import ChatClient, ChatOptions
from edge_llava.scenes.scene import sample_scenes
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.chat_teacher import ChatTeacher
from edge_llava.training.instructions.conversations import RESPONSE_TYPES, read_conversations
from edge_llava.training.instructions.generation import GenerationOptions, GenerationReport, generate
from edge_llava.training.instructions.journal import Journal
from edge_llava.training.instructions.phrasings import DETAIL
from edge_llava.training.instructions.scene_teacher import SceneTeacher

ALL = [(f"p{i}", kind) for i in range(6) for kind in RESPONSE_TYPES]


@pytest.fixture
def ask(server, images, tmp_path):
    """ask(**GenerationOptions fields, model=) -> the report of a run about the six images into out.json."""

    def run(images=images, progress=lambda event: None, model="m", **options: Any) -> GenerationReport:
        chat = ChatOptions(server.url, model, n_tries=2, first_wait_s=0.01, timeout_s=5)
        with ChatClient(chat) as client:
            return generate(images, ChatTeacher(client), tmp_path / "out.json", GenerationOptions(**options), progress)

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def n_different(server) -> int:
    """Questions that the server received; one that was pending when a run ended may have been sent twice."""
    return len({json.dumps(request.body) for request in server.requests})


def partial(tmp_path: Path) -> Path:
    return tmp_path / "out.json.partial.jsonl"


def rejected(tmp_path: Path) -> Path:
    return tmp_path / "out.json.rejected.jsonl"


def test_everything_is_asked_and_written_in_order(server, ask, tmp_path):
    report = ask(concurrency=5)
    assert report == GenerationReport(
        out=tmp_path / "out.json",
        accepted={"conversation": 6, "detail": 6, "reasoning": 6},
        rejected={},
        rejected_path=rejected(tmp_path),
        n_kept=0,
        prompt_tokens=1800,
        completion_tokens=360,
    )
    found = read_conversations(tmp_path / "out.json")
    assert [(c.id, c.type) for c in found] == ALL
    assert [c.image for c in found[::3]] == [f"{i}.jpg" for i in range(6)]
    assert found[0].turns[0].answer == "Dog 0 runs."
    assert len(found[0].turns) == 2
    assert found[1].turns[0].question in DETAIL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json"]


def test_concurrency_changes_nothing_but_the_time(server, ask, tmp_path):
    contents = set()
    for concurrency in (1, 3, 40):
        server.behave = lambda request, i: dataclasses.replace(server.good(request), wait_s=0.02 * (i % 3))
        ask(concurrency=concurrency, overwrite=True)
        contents.add((tmp_path / "out.json").read_bytes())
    assert len(contents) == 1


def test_as_many_at_once_as_allowed(server, ask):
    server.behave = lambda request, i: dataclasses.replace(server.good(request), wait_s=0.1)
    ask(concurrency=6, types=("detail",))
    times = [request.at_s for request in server.requests]
    assert len(times) == 6
    assert max(times) - min(times) < 0.1, "all six were on their way before the first was answered"


def test_some_types_only(server, ask, tmp_path):
    ask(types=("detail",))
    assert {c.type for c in read_conversations(tmp_path / "out.json")} == {"detail"}
    assert len(server.requests) == 6


def test_progress(server, ask):
    events: list[ProgressEvent] = []
    ask(progress=events.append)
    assert [event.done for event in events] == list(range(19))
    assert {(event.stage, event.total, event.unit) for event in events} == {("asking the teacher", 18, "items")}


def behave_badly_about(server, image: str, answer) -> None:
    server.behave = lambda request, i: answer if f"Dog {image} " in request.context else server.good(request)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The captions show a dog.", "betrays its source"),
        ("Question:\n?\n===\nAnswer:\n!", "labels in a description"),
        ("", "no text"),
        ("half a \ud83d", "no text"),
        (None, "junk"),
    ],
)
def test_rejected_replies_are_kept_in_full_and_asked_for_again(server, ask, tmp_path, text, reason):
    behave_badly_about(server, "3", server.say(text))
    report = ask(types=("detail",))
    assert (report.accepted, report.rejected) == ({"detail": 5}, {reason: 1})
    assert report.prompt_tokens == 600
    (line,) = lines(rejected(tmp_path))
    assert (line["id"], line["type"], line["reason"]) == ("p3", "detail", reason)
    assert line["reply"] == text or (text is None and '"content": null' in line["reply"])
    assert [c.id for c in read_conversations(tmp_path / "out.json")] == ["p0", "p1", "p2", "p4", "p5"]

    server.behave = lambda request, i: server.good(request)
    again = ask(types=("detail",))
    assert (again.accepted, again.rejected, again.n_kept) == ({"detail": 6}, {}, 5)
    assert again.prompt_tokens == 700, "what was paid before is counted"
    assert len(server.requests) == 7
    assert [c.id for c in read_conversations(tmp_path / "out.json")] == [f"p{i}" for i in range(6)]
    assert not partial(tmp_path).exists()
    assert len(lines(rejected(tmp_path))) == 1


def test_one_image_without_a_reply_does_not_stop_the_run(server, ask, tmp_path):
    behave_badly_about(server, "0", server.send("overloaded", 500))
    report = ask(types=("detail",), concurrency=1)
    assert report.rejected == {"no reply": 1}
    assert lines(rejected(tmp_path))[0]["detail"] == "status 500: overloaded (2 tries)"


def test_a_teacher_that_is_gone_is_given_up(server, ask, tmp_path):
    server.behave = lambda request, i: server.good(request) if i < 4 else server.send("down", 503)
    with pytest.raises(DataError) as caught:
        ask(concurrency=1)
    assert str(caught.value).splitlines() == [
        f"m at {server.url} gave no usable reply 3 times in a row. Last: no reply: status 503: down (2 tries).",
        "Accepted replies so far: 4. They are kept; run the same command again to resume.",
    ]
    assert not (tmp_path / "out.json").exists()
    server.requests.clear()
    server.behave = lambda request, i: server.good(request)
    assert ask().n_kept == 4
    assert n_different(server) == 14


def test_a_refused_key_stops_at_once_and_leaves_nothing(server, ask, tmp_path):
    server.behave = lambda request, i: server.send({"error": {"message": "bad key"}}, 401)
    with pytest.raises(DataError, match=r"status 401: bad key\. .*\nNothing was accepted so far\."):
        ask(concurrency=1)
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_babbles_is_given_up(server, ask, images, tmp_path):
    server.behave = lambda request, i: server.say("Blah.")
    many = [dataclasses.replace(images[0], id=str(i)) for i in range(80)]
    with pytest.raises(DataError, match=r"no usable reply 50 times in a row\. Last: odd number of parts: 1"):
        ask(images=many, types=("reasoning",), concurrency=1)
    assert len(lines(rejected(tmp_path))) == 50
    assert not partial(tmp_path).exists()


def test_nothing_accepted(server, ask, tmp_path):
    server.behave = lambda request, i: server.say("Blah.")
    with pytest.raises(DataError, match="no reply was accepted"):
        ask(types=("reasoning",))
    assert [path.name for path in tmp_path.iterdir()] == ["out.json.rejected.jsonl"]
    server.behave = lambda request, i: server.good(request)
    assert ask(types=("reasoning",), model="another").accepted == {"reasoning": 6}, "no journal stands in the way"


class Killed(BaseException):
    """What ends a run between two replies."""


def stop_after(n: int):
    def progress(event: ProgressEvent) -> None:
        if event.done == n:
            raise Killed

    return progress


def test_a_stopped_run_resumes_where_it_was(server, ask, tmp_path):
    ask()
    whole = (tmp_path / "out.json").read_bytes()
    (tmp_path / "out.json").unlink()
    with pytest.raises(Killed):
        ask(progress=stop_after(7), concurrency=1)
    assert len(lines(partial(tmp_path))) == 8
    server.requests.clear()
    assert ask().n_kept == 7
    assert n_different(server) == 11
    assert (tmp_path / "out.json").read_bytes() == whole


@pytest.mark.parametrize("half", [b'{"id": "p9", "type": "det', b"\xf0\x9f", b"{}"])
def test_half_a_line_is_dropped(server, ask, tmp_path, half):
    with pytest.raises(Killed):
        ask(progress=stop_after(7), concurrency=1)
    with partial(tmp_path).open("ab") as file:
        file.write(half)
    with rejected(tmp_path).open("ab") as file:
        file.write(half)
    assert ask().n_kept == 7
    assert len(read_conversations(tmp_path / "out.json")) == 18


def test_a_line_that_was_cut_is_asked_again(server, ask, tmp_path):
    with pytest.raises(Killed):
        ask(progress=stop_after(7), concurrency=1)
    content = partial(tmp_path).read_bytes()
    partial(tmp_path).write_bytes(content[:-20])
    assert ask().n_kept == 6


def test_only_settings_were_written(server, ask, tmp_path):
    partial(tmp_path).write_text('{"teacher": "another", "seed": 9}\n')
    assert ask().n_kept == 0


def test_an_image_that_changed_is_asked_about_again(server, ask, images, tmp_path):
    with pytest.raises(Killed):
        ask(progress=stop_after(6), concurrency=1)  # all types of p0 and p1
    changed = [dataclasses.replace(images[0], captions=("Dog 0 sleeps.",)), *images[1:]]
    assert ask(images=changed).n_kept == 3
    assert read_conversations(tmp_path / "out.json")[0].turns[0].answer == "Dog 0 sleeps."
    assert partial(tmp_path).exists(), "it contains replies about the old image, which were paid for"


def test_less_is_wanted_than_was_made(server, ask, images, tmp_path):
    with pytest.raises(Killed):
        ask(progress=stop_after(9), concurrency=1)
    assert ask(images=images[:1]).n_kept == 3
    assert len(read_conversations(tmp_path / "out.json")) == 3
    assert ask().n_kept == 9
    assert len(server.requests) <= 20, "one was on its way when the first run ended, and one may just have begun"


def test_other_settings_are_refused(server, ask, tmp_path):
    with pytest.raises(Killed):
        ask(progress=stop_after(2), concurrency=1)
    with pytest.raises(DataError) as caught:
        ask(model="larger")
    assert str(caught.value).splitlines()[:2] == [
        f"{partial(tmp_path)} was begun with other settings:",
        f"  - teacher: 'm at {server.url}' then, 'larger at {server.url}' now",
    ]
    assert ask(model="larger", overwrite=True).n_kept == 0


def test_an_output_is_not_replaced_unasked(server, ask, tmp_path):
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(DataError, match=r"out\.json already exists.*--force"):
        ask()
    assert (tmp_path / "out.json").read_text() == "mine"
    assert server.requests == []
    with pytest.raises(Killed):
        ask(overwrite=True, progress=stop_after(3))
    assert (tmp_path / "out.json").read_text() == "mine", "until the new one is complete"
    ask()
    assert len(read_conversations(tmp_path / "out.json")) == 18


@pytest.mark.parametrize(
    "damage", ['{"id": "p0"}\n', "[]\n", "junk\n", '{"turns": [["a"]], "id": 1, "type": 2, "digest": 3}\n']
)
def test_an_edited_journal(server, ask, tmp_path, damage):
    with pytest.raises(Killed):
        ask(progress=stop_after(3), concurrency=1)
    before = partial(tmp_path).read_text()
    partial(tmp_path).write_text(before + damage)
    with pytest.raises(DataError, match=r"not as they were written:\n  - .*line.*\nStart again with --force"):
        ask()
    assert partial(tmp_path).read_text() == before + damage


def test_full_disk(server, ask, tmp_path, monkeypatch):
    """The journal's writes fail as on a full disk, with half a line written; the run can be resumed later."""
    append, n_lines = LineFile.append, 0

    def fill(file: LineFile, line: bytes) -> int:
        nonlocal n_lines
        n_lines += 1
        if n_lines == 5:
            append(file, line[:16])
            with open("/dev/full", "ab+", buffering=0) as full, pytest.MonkeyPatch.context() as patch:
                patch.setattr(file, "_file", full)
                append(file, line)
        return append(file, line)

    monkeypatch.setattr(LineFile, "append", fill)
    with pytest.raises(DataError) as caught:
        ask(concurrency=1)
    assert str(caught.value).splitlines() == [
        f"{partial(tmp_path)} cannot grow: No space left on device. Free space on its disk.",
        "Accepted replies so far: 3. They are kept; run the same command again to resume.",
    ]
    monkeypatch.undo()
    assert ask().n_kept == 3


def test_no_place_for_the_output(server, images, tmp_path):
    (tmp_path / "file").touch()
    teacher = SceneTeacher(0)
    with pytest.raises(DataError, match=r"cannot be written: File exists\. Choose another output"):
        generate(images, teacher, tmp_path / "file" / "out.json")


def test_scene_teacher(tmp_path):
    scenes = islice(sample_scenes("train", 3), 40)
    images = [AnnotatedImage(f"s{i}", f"{i}.jpg", ("x",), (), scene) for i, scene in enumerate(scenes)]
    contents = set()
    for name, concurrency in (("a.json", 1), ("b.json", 8)):
        report = generate(images, SceneTeacher(5), tmp_path / name, GenerationOptions(concurrency=concurrency))
        assert (report.rejected, sum(report.accepted.values())) == ({}, 120)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1
    generate(images, SceneTeacher(6), tmp_path / "c.json")
    assert (tmp_path / "c.json").read_bytes() not in contents


def test_scene_teacher_needs_a_scene(images, tmp_path):
    with pytest.raises(DataError, match="images with their facts, and p0 has none"):
        generate(images, SceneTeacher(0), tmp_path / "out.json", GenerationOptions(concurrency=1))


def test_another_run_with_the_same_output_is_refused(tmp_path):
    settings = {"teacher": "scenes", "seed": 0}
    with Journal(tmp_path / "out.json", settings, overwrite=False) as journal:
        before = journal.path.read_bytes()
        for overwrite in (False, True):
            with pytest.raises(DataError, match=r"is being written by another run\. Wait"):
                Journal(tmp_path / "out.json", settings, overwrite=overwrite)
        assert journal.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == []
