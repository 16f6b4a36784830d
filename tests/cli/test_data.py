"""edge-llava data, as a user runs it: draw, ask, count; kill and resume."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

KEY = "sk-very-secret"
COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]
DETAIL = ("--types", "detail", "--model", "toy")


@pytest.fixture
def scenes(run, tmp_path):
    result = run("data", "scenes", tmp_path / "s", "--n", 6, "--seed", 4, "--side", 32)
    assert (result.code, result.out) == (0, f"{tmp_path}/s/annotations.jsonl\n")
    return tmp_path / "s" / "annotations.jsonl"


@pytest.fixture
def teacher():
    """A server; a reply takes `wait_s`, begins with `prefix`, costs 1000 and 50 tokens. Keeps what it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.headers["Authorization"], body))
            time.sleep(server.wait_s)
            text = server.prefix + body["messages"][-1]["content"].split("\n")[0]
            usage = {"prompt_tokens": 1000, "completion_tokens": 50}
            content = json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client was killed

        def log_message(self, format, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked, server.wait_s, server.prefix = [], 0.0, ""
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_from_nothing_to_conversations_and_a_sheet(run, scenes, tmp_path):
    out = tmp_path / "llava.json"
    result = run("data", "instruct", scenes, "--teacher", "scenes", "-o", out)
    assert (result.code, result.out) == (0, f"{out}\n")
    assert "accepted: 18 (6 conversation, 6 detail, 6 reasoning)" in result.err
    sheet = tmp_path / "sheet.png"
    result = run("data", "stats", out, "--images", scenes.parent, "--sheet", sheet)
    assert result.code == 0
    assert result.out.splitlines()[0] == "records         18 about 6 images"
    assert "detail          6 (33.3%)\n" in result.out
    assert f"contact sheet: {sheet}" in result.err
    with Image.open(sheet) as file:
        assert file.size[0] == 1220
    facts = json.loads(run("data", "stats", out, "--json").out)
    assert (facts["n_records"], facts["n_pictures"], facts["sheet"]) == (18, 6, None)
    assert facts["types"] == {"conversation": 6, "detail": 6, "reasoning": 6}


def test_scenes_json_and_refusal(run, scenes, tmp_path):
    result = run("data", "scenes", tmp_path / "t", "--n", 2, "--split", "held-out", "--json")
    assert json.loads(result.out) == {"annotations": f"{tmp_path}/t/annotations.jsonl", "n": 2}
    again = run("data", "scenes", scenes.parent)
    assert (again.code, again.out) == (10, "")


def test_instruct_json_counts_tokens_and_cost(run, scenes, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    out = tmp_path / "llava.json"
    arguments = (
        "--teacher",
        teacher.url,
        *DETAIL,
        "--limit",
        4,
        "--price-in",
        2.5,
        "--price-out",
        10,
        "--key-env",
        "MY_KEY",
    )
    result = run("--debug", "data", "instruct", scenes, "-o", out, *arguments, "--json")
    assert json.loads(result.out) == {
        "out": str(out),
        "accepted": {"detail": 4},
        "rejected": {},
        "rejected_path": f"{out}.rejected.jsonl",
        "n_kept": 0,
        "prompt_tokens": 4000,
        "completion_tokens": 200,
        "cost": pytest.approx(0.012),
    }
    assert {key for key, _ in teacher.asked} == {f"Bearer {KEY}"}
    assert KEY not in result.out + result.err
    assert KEY not in out.read_text()


def test_rejected_replies_are_told_and_kept(run, scenes, teacher, tmp_path):
    teacher.prefix = "The captions say: "
    out = tmp_path / "llava.json"
    result = run("data", "instruct", scenes, "-o", out, "--teacher", teacher.url, *DETAIL)
    assert (result.code, result.out) == (10, "")
    assert f"no reply was accepted. They are in {out}.rejected.jsonl" in result.err
    kept = [json.loads(line) for line in Path(f"{out}.rejected.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in kept} == {"betrays its source"}
    assert all(line["reply"].startswith("The captions say: ") for line in kept)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--teacher", "scenes"), 10, "has none"),
        (("--teacher", "URL"), 2, "--model"),
        (("--teacher", "URL", "--model", "m", "--key-env", "NO_SUCH_KEY"), 2, "NO_SUCH_KEY is not set"),
        (("--teacher", "ftp://x", "--model", "m"), 10, "'ftp://x' is not the address"),
        (("--teacher", "scenes", "--types", "detail,poem"), 2, "'poem'; choose among conversation"),
        (("--teacher", "scenes", "--instances", "i.json"), 10, "contains its own boxes"),
        (("--teacher", "scenes", "--images", "nowhere"), 10, "nowhere/a.jpg is missing"),
    ],
)
def test_bad_instruct(run, teacher, tmp_path, arguments, code, says):
    (tmp_path / "a.jpg").touch()
    source = tmp_path / "a.jsonl"
    source.write_text('{"id": "a", "image": "a.jpg", "captions": ["A dog."], "boxes": []}')
    arguments = [teacher.url if argument == "URL" else argument for argument in arguments]
    result = run("data", "instruct", source, "-o", tmp_path / "o.json", *arguments)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert not (tmp_path / "o.json").exists()


def test_faulty_images_are_left_out_on_request(run, scenes, tmp_path):
    with scenes.open("a") as file:
        file.write("".join(f'{{"id": "bad {i}"}}\n' for i in range(4)))
    arguments = ("data", "instruct", scenes, "-o", tmp_path / "o.json", "--teacher", "scenes")
    result = run(*arguments)
    assert result.code == 10
    assert "line 7: captions is missing" in result.err
    result = run(*arguments, "--skip-faulty")
    assert result.code == 0
    assert result.err.count("left out: ") == 6
    assert "left out: 7 more faults" in result.err


@pytest.mark.parametrize("command", ["stats", "instruct"])
def test_files_that_are_none(run, tmp_path, command):
    path = tmp_path / "a.json"
    path.write_text('{"a": ')
    rest = ("-o", tmp_path / "o.json", "--teacher", "scenes") if command == "instruct" else ()
    result = run("data", command, path, *rest)
    assert (result.code, result.out) == (10, "")
    assert result.err.startswith(f"edge-llava: {path} is not JSON: ")


def start(scenes, teacher, out):
    arguments = [
        *COMMAND,
        "data",
        "instruct",
        scenes,
        "-o",
        out,
        "--teacher",
        teacher.url,
        *DETAIL,
        "--concurrency",
        "1",
    ]
    return subprocess.Popen(
        [str(a) for a in arguments], stderr=subprocess.PIPE, env=os.environ | {"OPENAI_API_KEY": KEY}
    )


def wait_for_lines(path: Path, n: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < n:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 130)]
)
def test_killed_and_gone_on(run, scenes, teacher, tmp_path, how, code):
    out, journal = tmp_path / "llava.json", tmp_path / "llava.json.partial.jsonl"
    teacher.wait_s = 0.2
    process = start(scenes, teacher, out)
    wait_for_lines(journal, 3)  # settings and two replies
    process.send_signal(how)
    error = process.communicate()[1].decode()
    assert process.returncode == code
    assert "Traceback" not in error
    assert ("run the same command again to resume" in error) == (code == 130)
    assert not out.exists()
    n_kept = journal.read_bytes().count(b"\n") - 1
    assert 2 <= n_kept <= 5
    assert KEY not in journal.read_text()

    teacher.wait_s = 0.0
    teacher.asked.clear()
    result = run("data", "instruct", scenes, "-o", out, "--teacher", teacher.url, *DETAIL)
    assert f"accepted: 6 (6 detail); {n_kept} of them from an earlier run" in result.err
    assert len({json.dumps(body) for _, body in teacher.asked}) == 6 - n_kept
    assert [record["id"] for record in json.loads(out.read_text())] == [f"train-4-{i:06d}" for i in range(6)]
    assert not journal.exists()


def test_an_output_is_replaced_when_told_so(run, scenes, tmp_path):
    out = tmp_path / "llava.json"
    out.write_text("mine")
    arguments = ("data", "instruct", scenes, "-o", out, "--teacher", "scenes")
    assert run(*arguments).code == 10
    assert out.read_text() == "mine"
    assert run(*arguments, "--force").code == 0
    assert len(json.loads(out.read_text())) == 18


def test_help_loads_no_images(home):
    code = (
        "import sys\nfrom edge_llava.cli import main\ntry: main(['data', 'instruct', '-h'])\nexcept SystemExit: pass\n"
    )
    code += "assert not {'numpy', 'PIL', 'httpx', 'torch'} & set(sys.modules), sys.modules.keys()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=home, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert io.StringIO(result.stdout).readline() == "Usage: edge-llava data instruct [OPTIONS] SOURCE\n"
