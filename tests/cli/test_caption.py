from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]
N_MANY = 150


@pytest.fixture
def album(tmp_path):
    """A folder of three images, one of them twice, and a file that is not an image."""
    draw(tmp_path / "album", 3)
    shutil.copy(tmp_path / "album" / "000.png", tmp_path / "album" / "copy.png")
    (tmp_path / "album" / "broken.jpg").write_bytes(b"not an image")
    return tmp_path / "album"


def draw(directory, n):
    directory.mkdir()
    for seed in range(n):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{seed:03}.png")
    return directory


@pytest.fixture
def caption(run, seeded_q4):
    """caption(*arguments) -> Result of `caption` with the seeded bundle and short answers."""
    return lambda *arguments: run("caption", "-m", seeded_q4, "-t", 1, "-n", 4, *arguments)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_then_the_same_command_again(caption, album):
    result = caption(album)
    assert (result.code, result.out) == (0, f"{album / 'captions.jsonl'}\n")
    assert "3 images captioned, 1 duplicate, 12 tokens; " in result.err
    assert "1 file could not be used:\n  broken.jpg: it is not an image that PIL can read" in result.err
    assert [line["path"] for line in lines(album / "captions.jsonl")] == ["000.png", "001.png", "002.png", "copy.png"]
    before = (album / "captions.jsonl").read_bytes()
    again = caption(album)
    assert again.code == 0
    assert "0 images captioned, 4 earlier; " in again.err
    assert (album / "captions.jsonl").read_bytes() == before


def test_json_is_one_object_and_nothing_else_is_on_stdout(caption, album, tmp_path):
    out = tmp_path / "out.jsonl"
    result = caption(album, "-o", out, "--sidecar", "--json")
    report = json.loads(result.out)
    assert report.pop("seconds") > 0
    (fault,) = report.pop("faults")
    assert (fault["path"], set(fault)) == ("broken.jpg", {"path", "reason"})
    assert report == {
        "out": str(out),
        "n_images": 5,
        "n_captioned": 3,
        "n_duplicates": 1,
        "n_earlier": 0,
        "n_tokens": 12,
        "n_sidecars": 4,
        "n_sidecars_kept": 0,
        "n_descriptions": 0,
        "n_descriptions_kept": 0,
        "unsupported": {},
        "n_truncated": 0,
        "n_links_out": 0,
        "passed_over": [],
    }
    for line in lines(out):
        assert (album / line["path"]).with_suffix(".txt").read_text() == line["caption"] + "\n"
    assert not (album / "captions.jsonl").exists()


def test_sidecars_that_are_there_stay_without_force(caption, album):
    (album / "000.txt").write_text("by hand")
    result = caption(album, "--sidecar")
    assert "1 sidecar file with other text was kept; --force" in result.err
    assert (album / "000.txt").read_text() == "by hand"
    assert caption(album, "--sidecar", "--force").code == 0
    assert (album / "000.txt").read_text() == lines(album / "captions.jsonl")[0]["caption"] + "\n"


def test_an_output_that_leads_to_the_name_of_a_sidecar_keeps_its_lines(caption, album):
    (album / "lines.jsonl").symlink_to("000.txt")
    for _ in range(2):
        assert caption(album, "-o", album / "lines.jsonl", "--sidecar", "--force").code == 0
        assert [line["path"] for line in lines(album / "000.txt")] == ["000.png", "001.png", "002.png", "copy.png"]
    assert (album / "000.png.txt").read_text() == lines(album / "000.txt")[0]["caption"] + "\n"


def test_another_prompt_is_refused_until_it_may_replace(caption, album):
    caption(album)
    result = caption(album, "-p", "Why?")
    assert (result.code, result.out) == (1, "")
    assert "prompt: 'Describe the picture in detail.' then, 'Why?' now" in result.err
    assert caption(album, "-p", "Why?", "--force").code == 0
    assert {line["prompt"] for line in lines(album / "captions.jsonl")} == {"Why?"}


def test_answers_follow_a_schema(caption, album, tmp_path):
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}')
    result = caption(album, "--json-schema", tmp_path / "schema.json", "-n", 20)
    assert result.code == 0
    assert {line["json"] for line in lines(album / "captions.jsonl")} <= {"yes", "no"}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("{", "is not JSON"),
        ('{"type": "colour"}', "json_schema: type must be one of object, array"),
        ("[" * 100_000, "is not JSON"),
        ("7", "json_schema: the schema must be an object"),
    ],
)
def test_a_schema_that_cannot_be_used_is_found_before_the_bundle(run, album, tmp_path, schema, says):
    (tmp_path / "schema.json").write_text(schema)
    result = run("caption", album, "-m", "no-such-bundle", "--json-schema", tmp_path / "schema.json")
    assert (result.code, result.out) == (2, "")
    assert says in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("ALBUM", "NOWHERE"), 7, "there is no file or folder "),
        (("ALBUM", "-o", "-"), 2, "not to stdout"),
        ((), 2, "Missing argument"),
        (("EMPTY",), 7, "contains no images"),
        (("ALBUM", "-p", " "), 2, "not valid text"),
        (("ALBUM", "-o", "ALBUM/000.png", "--force"), 2, "captions cannot be written as .png"),
        (("ALBUM", "-o", "EMPTY/other.jsonl"), 1, "is not a caption file"),
        (("ALBUM", "-o", "EMPTY/other.csv", "--force"), 1, "is not a caption file"),
        (("ALBUM", "-o", "EMPTY/none/out.jsonl"), 1, "cannot be written"),
        (("ALBUM", "-c", "32"), 8, "no image has a caption"),
    ],
)
def test_bad_input_leaves_everything_as_it_was(caption, album, tmp_path, arguments, code, says):
    (tmp_path / "empty").mkdir()
    for suffix in ("jsonl", "csv"):
        (tmp_path / "empty" / f"other.{suffix}").write_text("of another program\n")
    places = {"ALBUM": album, "EMPTY": tmp_path / "empty", "NOWHERE": tmp_path / "nowhere"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    filled = [re.sub("^[A-Z]+", lambda name: str(places[name[0]]), argument) for argument in arguments]
    result = caption(*filled)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_files_and_several_folders(caption, album, tmp_path):
    draw(tmp_path / "more", 4)
    result = caption(album / "000.png", album / "001.png")
    assert (result.code, result.out) == (0, f"{album / 'captions.jsonl'}\n")
    assert [line["path"] for line in lines(album / "captions.jsonl")] == ["000.png", "001.png"]
    result = caption(album / "000.png", tmp_path / "more", "-o", tmp_path / "out.jsonl", "--sidecar")
    assert (result.code, result.out) == (0, f"{tmp_path / 'out.jsonl'}\n")
    names = ["album/000.png", *(f"more/{n:03}.png" for n in range(4))]
    assert [line["path"] for line in lines(tmp_path / "out.jsonl")] == names
    assert (tmp_path / "more" / "003.txt").is_file()


def test_what_is_left_out_is_reported(caption, album):
    (album / "scan.jxl").write_bytes(b"\xff\x0a")
    (album / "raw.dng").write_bytes(b"II*")
    (album / "@eaDir").mkdir()
    shutil.copy(album / "000.png", album / "@eaDir" / "THUMB.png")
    (album / "up").symlink_to("..")
    data = (album / "001.png").read_bytes()
    (album / "cut.png").write_bytes(data[: len(data) - 60])
    result = caption(album)
    assert result.code == 0
    for said in (
        "1 image truncated: part of the image is missing.",
        "2 image files in unsupported formats: 1 .dng, 1 .jxl.",
        "1 link to places outside the sources not followed.",
        "1 system folder skipped: @eaDir",
    ):
        assert said in result.err
    assert [line["path"] for line in lines(album / "captions.jsonl") if line.get("truncated")] == ["cut.png"]


def test_only_bad_files(caption, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    result = caption(tmp_path)
    assert (result.code, result.out) == (7, "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_plain_lines_say_how_fast_and_how_long(caption, album, monkeypatch):
    monkeypatch.setattr("edge_llava.cli.display._LINE_EVERY_S", 0)
    said = re.findall(r"captioning: (\d) of 5, [\d.,]+/(?:s|min), \d:\d\d:\d\d left", caption(album).err)
    assert said == ["1", "2", "3", "4"]


def start(album, out, seeded_q4, stderr):
    arguments = ["caption", album, "-o", out, "-m", seeded_q4, "-t", "1", "-n", "60", "--no-ahead"]
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=stderr)


def wait_for_lines(out, n):
    deadline = time.monotonic() + 120
    while not out.exists() or out.read_bytes().count(b"\n") < n:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_csv_has_the_fields_of_the_lines_and_is_resumed(caption, album, tmp_path):
    out = tmp_path / "x.csv"
    assert caption(album, "-o", tmp_path / "x.jsonl").code == 0
    assert caption(album, "-o", out).code == 0
    for row, line in zip(read_rows(out), lines(tmp_path / "x.jsonl"), strict=True):
        line |= {"seconds": row["seconds"], "n_tokens": str(line["n_tokens"])}
        assert {name: cell.removeprefix("'") for name, cell in row.items() if cell} == {
            name: text.removeprefix("'") for name, text in line.items()
        }
    whole = out.read_bytes()
    out.write_bytes(whole[:-40])  # a kill in the middle of the last row
    again = caption(album, "-o", out)
    assert "0 images captioned, 1 duplicate, 3 earlier; " in again.err
    assert [row["path"] for row in read_rows(out)] == ["000.png", "001.png", "002.png", "copy.png"]
    assert "begun with other settings" in caption(album, "-o", out, "-p", "Why?").err


def go_on(run, album, out, seeded_q4):
    """Finishes what was stopped; returns the report."""
    result = run("caption", album, "-o", out, "-m", seeded_q4, "-t", 1, "-n", 60, "--json")
    assert result.code == 0
    return json.loads(result.out)


def test_kill_in_the_middle_then_go_on(run, seeded_q4, tmp_path):
    album, out = draw(tmp_path / "album", N_MANY), tmp_path / "out.jsonl"
    process = start(album, out, seeded_q4, subprocess.DEVNULL)
    wait_for_lines(out, 3)
    process.kill()
    process.communicate()
    finished = out.read_bytes().splitlines(keepends=True)
    assert 3 <= len(finished) < N_MANY
    out.write_bytes(b"".join(finished)[:-30])  # and the last line is torn
    for seed in range(len(finished) + 5, N_MANY):  # a short rest
        (album / f"{seed:03}.png").unlink()
    report = go_on(run, album, out, seeded_q4)
    assert (report["n_earlier"], report["n_captioned"]) == (len(finished) - 1, 6)
    assert out.read_bytes().splitlines(keepends=True)[: len(finished) - 1] == finished[:-1]
    assert [line["path"] for line in lines(out)] == [f"{seed:03}.png" for seed in range(len(finished) + 5)]


def test_a_second_run_on_the_same_output_is_refused(run, seeded_q4, tmp_path):
    album, out = draw(tmp_path / "album", N_MANY), tmp_path / "out.jsonl"
    process = start(album, out, seeded_q4, subprocess.DEVNULL)
    try:
        wait_for_lines(out, 1)
        before = out.read_bytes()
        result = run("caption", album, "-o", out, "-m", seeded_q4, "-p", "Why?", "--force")
        assert (result.code, result.out) == (1, "")
        assert f"{out} is being written by another run" in result.err
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert out.read_bytes().startswith(before)


def test_an_output_that_is_no_ordinary_file_is_refused(album, seeded_q4):
    """A pipe for lines would be read for ever, for what an earlier run left."""
    arguments = ["caption", album, "-o", "/dev/stdout", "-m", seeded_q4, "-t", "1", "-n", "2"]
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "/dev/stdout cannot be written: it is not a regular file" in done.stderr


def test_ctrl_c_loses_nothing(run, seeded_q4, tmp_path):
    album, out = draw(tmp_path / "album", N_MANY), tmp_path / "out.jsonl"
    master, slave = pty.openpty()
    process = start(album, out, seeded_q4, slave)
    os.close(slave)
    said = b""
    while not re.search(rb"[3-9] of 150, [\d.]+/(s|min)", said):
        said += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    while b"interrupted" not in said:
        said += os.read(master, 4096)
    assert process.wait(30) == 130
    os.close(master)
    assert process.communicate() == (b"", None)
    assert b"Traceback" not in said
    assert out.read_bytes().endswith(b"\n")
    n_finished = len(lines(out))
    assert 3 <= n_finished < N_MANY
    assert f"{n_finished} captions kept in".encode() in said
    for seed in range(n_finished + 2, N_MANY):
        (album / f"{seed:03}.png").unlink()
    report = go_on(run, album, out, seeded_q4)
    assert (report["n_earlier"], report["n_captioned"]) == (n_finished, 2)


def test_captioning_needs_no_converter(seeded_q4, album):
    code = """
import json, sys
from edge_llava.cli import main
try: main(sys.argv[1:])
except SystemExit as exit_: assert not exit_.code, exit_.code
print(json.dumps(sorted(sys.modules)))
"""
    arguments = ["caption", album, "-m", seeded_q4, "-t", "1", "-n", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert modules >= {"edge_llava.captioning.job", "llama_cpp", "onnxruntime"}
    assert not modules & {"torch", "transformers", "optimum", "onnx", "edge_llava.converters", "edge_llava.training"}
