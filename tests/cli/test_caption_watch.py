from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from edge_llava.errors import BackendError

COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("sent", "name"), [(signal.SIGINT, "out.jsonl"), (signal.SIGTERM, "out.csv")])
def test_images_are_captioned_as_they_appear_until_a_signal(inbox, seeded_q4, photo, tmp_path, sent, name):
    out = tmp_path / name
    arguments = ["caption", inbox, "-o", out, "-m", seeded_q4, "-t", 1, "-n", 3, "--watch", "--interval", 0.1, "--json"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        while "Watching" not in (line := process.stderr.readline()):
            assert line
        for file in ("a.jpg", "b.jpg"):
            shutil.copy(photo, inbox / file)
            wait_for(lambda file=file: out.exists() and file in out.read_text())
        process.send_signal(sent)
        said, notes = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    report = json.loads(said)
    assert (report["n_captioned"], report["n_duplicates"], report["faults"]) == (1, 1, [])
    assert "captioned: a.jpg\ncaptioned: b.jpg\nstopped\n" in notes
    assert "Traceback" not in notes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("PHOTO", "--watch"), "name a folder to watch"),
        (("INBOX", "--watch", "--interval", "0"), "0.1<=x<=86400"),
        (("INBOX", "--watch", "--ray", "local"), "without --ray"),
        (("INBOX", "--ray", "local", "--ray-gpus", "1.5"), "1.5 is neither a share of one GPU nor a whole number"),
        (("INBOX", "--ray", "local", "--ray-gpus", "nan"), "nan is neither a share"),
        (("INBOX", "--replace-descriptions"), "only --write-metadata writes descriptions"),
        (("INBOX", "--write-metadata", "exif"), "'image', 'xmp'"),
        (("INBOX", "--write-metadata", "xmp", "--json-schema", "SCHEMA"), "the answers to a schema are JSON"),
    ],
)
def test_usage_errors(run, inbox, photo, tmp_path, arguments, says):
    (tmp_path / "schema.json").write_text('{"enum": ["a"]}')
    places = {"INBOX": inbox, "PHOTO": photo, "SCHEMA": tmp_path / "schema.json"}
    result = run("caption", *(places.get(argument, argument) for argument in arguments))
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert not list(inbox.iterdir())


def test_captions_are_written_into_images(run, inbox, photo, seeded_q4):
    shutil.copy(photo, inbox / "a.jpg")
    Image.new("RGB", (9, 9)).save(inbox / "b.gif")
    common = ("caption", inbox, "-m", seeded_q4, "-t", 1, "-n", 3)
    result = run(*common, "--write-metadata", "image")
    assert result.code == 0
    assert "1 description written." in result.err
    assert "b.gif: descriptions can be written only into JPEG, PNG, WebP and TIFF files; it is none" in result.err
    with Image.open(inbox / "a.jpg") as described, Image.open(photo) as original:
        assert 270 in described.getexif()
        assert described.tobytes() == original.tobytes()
    report = json.loads(run(*common, "--write-metadata", "xmp", "--json").out)
    assert (report["n_earlier"], report["n_descriptions"], report["faults"]) == (2, 2, [])
    assert "2 images had a description, which was kept" in run(*common, "--write-metadata", "xmp").err


def test_a_cluster_needs_its_extra(run, inbox, photo, seeded_q4, monkeypatch):
    shutil.copy(photo, inbox / "a.jpg")
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("caption", inbox, "-m", seeded_q4, "--ray", "local")
    assert (result.code, result.out) == (3, "")
    assert "Install it: pip install " in result.err
    assert "[cluster]'" in result.err
    assert [path.name for path in inbox.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(("arguments", "n"), [((), 1), (("-t", 3), 3)])
def test_a_worker_computes_with_the_cpus_that_ray_counts(run, inbox, photo, seeded_q4, monkeypatch, arguments, n):
    given = []

    def refuse(cluster, task):
        given.append((cluster.n_cpus, task.engine.decoder.n_threads, task.engine.n_vision_threads))
        raise BackendError("no cluster.")

    shutil.copy(photo, inbox / "a.jpg")
    monkeypatch.setattr("edge_llava.captioning.cluster.ClusterAsking", refuse)
    assert run("caption", inbox, "-m", seeded_q4, "--ray", "local", *arguments).code == BackendError.exit_code
    assert given == [(n, n, n)]
