"""A server that belongs to an app: the line that says it answers, and its end with the app."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]
QUESTION = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 3}
PYTHON_APP = """
import subprocess, sys
command = [sys.argv[1], "serve", "--port", "0", "--announce", "json", "--exit-with-stdin", *sys.argv[2:]]
server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(server.stdout.readline(), end="", flush=True)
sys.stdin.read()
"""
NODE_APP = """
startServer(process.argv[2], process.argv.slice(3)).then(async (server) => {
  const wanted = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(%s) };
  const answer = await fetch(`${server.url}/v1/chat/completions`, wanted);
  console.log(JSON.stringify({ ...server, status: answer.status }));
  process.stdin.once("data", server.stop);
});
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "edge-llava"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edge_llava.cli "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def start(program: Path, seeded_q4: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(*command) -> a process that is given the program and its options, and killed at the end."""
    started = []

    def run(*command: object) -> subprocess.Popen[str]:
        arguments = [*map(str, command), str(program), "-m", str(seeded_q4), "-t", "1", "-q"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return json.loads(line)


def node_app(tmp_path: Path) -> list[str]:
    """What docs/desktop.md shows, used by a program."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (recipe,) = re.findall(
        r"^```js\n(.*?)^```$", (ROOT / "docs/desktop.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "app.js").write_text(recipe + NODE_APP % json.dumps(QUESTION))
    return ["node", str(tmp_path / "app.js")]


def test_the_line_and_the_end_of_stdin(seeded_q4: Path) -> None:
    flags = ["--port", "0", "-t", "1", "--announce", "json", "--exit-with-stdin"]
    command = [sys.executable, "-W", "error", "-m", "edge_llava.cli", "serve", "-m", str(seeded_q4), *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            ready = read_line(process)
            assert (ready["event"], ready["pid"], ready["key"]) == ("ready", process.pid, None)
            answer = httpx.post(
                f"{ready['url']}/v1/chat/completions", json=QUESTION | {"model": ready["model"]}, timeout=PATIENCE_S
            )
            assert answer.status_code == 200
            out, err = process.communicate("what is written is ignored", timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    said = [line for line in err.splitlines() if "POST" not in line]  # a request is noted when its answer has left
    assert said[-2:] == ["stdin was closed", "stopped"]


def test_a_random_key_is_in_the_line(seeded_q4: Path) -> None:
    flags = ["--host", "0.0.0.0", "--port", "0", "-t", "1", "--announce", "json", "--exit-with-stdin"]
    command = [sys.executable, "-m", "edge_llava.cli", "serve", "-m", str(seeded_q4), *flags]
    pipe = subprocess.PIPE
    environment = {name: value for name, value in os.environ.items() if name != "EDGE_LLAVA_API_KEY"}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            ready = read_line(process)
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert len(ready["key"]) >= 8
    assert f"key:  {ready['key']}" in err


@pytest.mark.parametrize("app", ["python", "node"])
def test_a_server_ends_with_the_app_that_was_killed(
    app: str, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    command: Sequence[str] = [sys.executable, "-c", PYTHON_APP] if app == "python" else node_app(tmp_path)
    process = start(*command)
    ready = read_line(process)
    assert ready.get("status", 200) == 200
    assert httpx.get(f"{ready['url']}/v1/models", timeout=PATIENCE_S).status_code == 200
    os.kill(process.pid, signal.SIGKILL)
    # the server has inherited stderr, which ends with the last process that may write there
    _, err = process.communicate(timeout=PATIENCE_S)
    assert err.splitlines()[-2:] == ["stdin was closed", "stopped"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(ready["url"], timeout=PATIENCE_S)


def test_an_app_stops_its_server(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start(*node_app(tmp_path))
    read_line(process)
    _, err = process.communicate("stop", timeout=PATIENCE_S)
    assert err.splitlines()[-2:] == ["stdin was closed", "stopped"]


def test_an_app_that_ends_while_the_model_is_loaded(seeded_q4: Path) -> None:
    command = [sys.executable, "-m", "edge_llava.cli", "serve", "-m", str(seeded_q4), "--port", "0"]
    done = subprocess.run(
        [*command, "--exit-with-stdin", "--announce", "json"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 130)
    assert "Traceback" not in done.stderr
    assert "stdin was closed" in done.stderr
