"""`edge-llava serve` as a process: where it listens, what it prints, how it ends."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_llava.home.installation import install_command

COMMAND = [sys.executable, "-W", "error", "-c", "from edge_llava.cli import main; main()", "serve"]
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]


class Served:
    """A server process, and the lines that it has written to stderr so far."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.url = self.read_until(r"page: (http://\S+:\d+)/")[1]

    def read_until(self, pattern: str) -> re.Match[str]:
        """Reads stderr up to a line that matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError("\n".join(self.lines))

    def end(self, *signals: signal.Signals) -> int:
        """Sends signals and returns the exit code."""
        for number in signals:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert out == ""
        self.lines += err.splitlines()
        return self.process.returncode


@pytest.fixture
def start(seeded_q4: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """start(*arguments) -> Served, on a free port."""
    monkeypatch.delenv("EDGE_LLAVA_API_KEY", raising=False)
    started = []

    def run(*arguments: object) -> Served:
        started.append(Served("-m", seeded_q4, "--port", 0, "-t", 1, *arguments))
        return started[-1]

    yield run
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate()


def ask(url: str, **fields: Any) -> httpx.Response:
    wanted = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 3} | fields
    return httpx.post(f"{url}/v1/chat/completions", json=wanted, timeout=PATIENCE_S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_as_the_readme_says(start: Callable[..., Served], tmp_path: Path, image_file: Any) -> None:
    (block,) = re.findall(
        r"^    (curl .*?^    END)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "photo.jpg").write_bytes(image_file("JPEG", size=(640, 480)))
    served = start("-c", 160)
    script = re.sub(r"^    ", "", block, flags=re.MULTILINE).replace("http://127.0.0.1:8080", served.url)
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(result.stdout)
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 64
    assert answer["choices"][0]["message"]["content"]


def test_every_option_is_in_the_docs() -> None:
    from edge_llava.cli.serve import command

    text = (ROOT / "docs" / "server.md").read_text("utf-8")
    for parameter in command.params:
        name = min(parameter.opts, key=len)
        assert f"`{name}" in text, name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal(start: Callable[..., Served], seeded_q4: Path, number: signal.Signals) -> None:
    served = start()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", served.url)
    assert served.lines[-3].startswith(seeded_q4.name)
    assert served.lines[-2:] == [f"  API:  {served.url}/v1", f"  page: {served.url}/"]
    assert served.read_until("runs on: ").string == "runs on: language cpu, vision cpu\n"
    assert ask(served.url).status_code == 200
    assert served.end(number) == 0
    assert served.lines[-1] == "stopped"
    assert sum("POST /v1/chat/completions 200" in line for line in served.lines) == 1


def test_a_stop_ends_running_streams(start: Callable[..., Served]) -> None:
    served = start("--quiet")
    wanted = {"messages": [{"role": "user", "content": "What?"}], "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=wanted, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_unavailable"
    assert served.end() == 0
    assert not [line for line in served.lines if "POST" in line or "Traceback" in line]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no two signals that ask")
def test_a_second_signal_does_not_wait(start: Callable[..., Served]) -> None:
    """Both arrive before the server can end after the first."""
    served = start()
    assert served.end(signal.SIGINT, signal.SIGTERM) == 130
    assert served.lines[-1] == "stopped at once"
    assert not [line for line in served.lines if "Traceback" in line]


def test_a_port_conflict_is_reported_before_anything_is_loaded(run: Callable[..., Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("serve", "-m", tmp_path / "no bundle", "--port", port)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(rf"edge-llava: port {port} of 127\.0\.0\.1 is in use.* --port 0.*\n", result.err)


@pytest.mark.parametrize("host", ["no.such.name.invalid", "203.0.113.7"])
def test_hosts_that_are_not_this_machine(run: Callable[..., Any], host: str) -> None:
    result = run("serve", "--host", host, "--port", 0)
    assert (result.code, result.out) == (1, "")
    assert f"--host {host}" in result.err


def test_localhost_is_both_addresses_and_shows_one(start: Callable[..., Served]) -> None:
    served = start("--host", "localhost")
    port = served.url.rpartition(":")[2]
    assert served.url == f"http://127.0.0.1:{port}"
    with socket.socket(socket.AF_INET6) as tried:
        has_ipv6 = tried.connect_ex(("::1", int(port))) == 0
    for address in ("127.0.0.1", "localhost", *(["[::1]"] if has_ipv6 else [])):
        assert ask(f"http://{address}:{port}").status_code == 200
    assert not [line for line in served.lines if "key:" in line]
    assert served.end(signal.SIGTERM) == 0


def test_origins_that_never_match_are_refused_at_the_start(run: Callable[..., Any], tmp_path: Path) -> None:
    result = run(
        "serve", "-m", tmp_path / "no bundle", "--port", 0, "--cors-origin", "http://name:*",
        "--cors-origin", "https://app.example", "--cors-origin", "localhost:3000",
    )  # fmt: skip
    assert (result.code, result.out) == (2, "")
    assert "--cors-origin: 'http://name:*'" in result.err
    assert "'localhost:3000'" in result.err
    assert "app.example" not in result.err


def on_loopback(url: str) -> str:
    return f"http://127.0.0.1:{url.rpartition(':')[2]}"


def test_other_hosts_than_loopback_ones_need_a_key(start: Callable[..., Served]) -> None:
    served = start("--host", "0.0.0.0")
    (key,) = [match[1] for line in served.lines if (match := re.search(r"key:  (\S{43,})$", line))]
    assert "0.0.0.0" not in served.url  # no browser finds that from elsewhere
    assert served.lines[-1] == f"  page: {served.url}/#key={key}"
    n_lines, url = len(served.lines), on_loopback(served.url)
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert httpx.get(f"{url}/v1/models?key={key}").status_code == 401
    assert httpx.get(f"{url}/health", headers={"Host": "my.board"}).status_code == 200
    assert served.end(signal.SIGINT) == 0
    assert len(served.lines) > n_lines
    assert not [line for line in served.lines[n_lines:] if key in line]


def test_a_request_that_is_still_arriving_does_not_hold_up_the_end(start: Callable[..., Served]) -> None:
    served = start()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        while "edge_llava_requests_open 2\n" not in httpx.get(f"{served.url}/metrics").text:
            pass
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        with connection.makefile("rb") as answers:
            answer = answers.read()
        assert time.monotonic() - begun < 4  # uvicorn cuts off what is left after 5 s, without an answer
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"server_unavailable"' in answer
    assert served.end() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")
def test_a_closed_terminal_ends_running_streams_too(start: Callable[..., Served]) -> None:
    served = start("--quiet")
    wanted = {"messages": [{"role": "user", "content": "What?"}], "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=wanted, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGHUP)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_unavailable"
    assert served.end() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")
def test_nohup_keeps_it_running(start: Callable[..., Served]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup: the process inherits it
    try:
        served = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    served.process.send_signal(signal.SIGHUP)
    assert ask(served.url).status_code == 200
    assert served.end(signal.SIGTERM) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_without_file_handles_the_log_has_one_line(start: Callable[..., Served]) -> None:
    import resource

    served = start()
    host, port = served.url.removeprefix("http://").split(":")
    n_open = len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))
    usual = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (n_open + 4, usual[1]))
    with ExitStack() as clients:
        for _ in range(20):
            clients.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
        served.read_until("file handle")
        time.sleep(1.2)  # asyncio tries again every second
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, usual)
    assert ask(served.url).status_code == 200
    assert served.end(signal.SIGTERM) == 0
    (line,) = [line for line in served.lines if "file handle" in line]
    assert line.endswith("no file handle is left for new connections; raise the limit (ulimit -n)")
    assert not [line for line in served.lines if "Traceback" in line or "socket" in line]


def test_control_characters_do_not_reach_the_terminal() -> None:
    from edge_llava.cli.serve import _OneLine

    try:
        raise ValueError("\x1b]52;c;aGk=\x07 and\nmore \x9b2J")
    except ValueError:
        record = logging.LogRecord("edge_llava", logging.ERROR, "", 1, "\x1b[2J %s", ("é",), sys.exc_info())
    line = _OneLine().format(record)
    assert line.isprintable()
    assert line.endswith(r"\x1b[2J é: ValueError: \x1b]52;c;aGk=\x07 and\nmore \x9b2J")


def test_images_that_are_being_decoded_do_not_hold_up_the_end(
    start: Callable[..., Served], slow_jpeg: bytes, data_uri: Any, ask_user: Any
) -> None:
    served = start()
    messages = [ask_user("What?", data_uri(slow_jpeg, "image/jpeg"))]
    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(ask, served.url, messages=messages) for _ in range(16)]
        while "edge_llava_requests_open 17\n" not in httpx.get(f"{served.url}/metrics", timeout=PATIENCE_S).text:
            pass
        served.process.send_signal(signal.SIGTERM)
        answers = [answer.result() for answer in asked]
    assert served.end() == 0
    # with the first ones decoded perhaps; the others would have taken eight times as long
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) > 10
    assert {answer.json()["error"]["code"] for answer in refused} == {"server_unavailable"}
    assert not [line for line in served.lines if "Traceback" in line or "Error" in line]


def test_a_key_is_taken_from_the_environment(start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LLAVA_API_KEY", "sk-of-the-environment")
    served = start("--host", "0.0.0.0")
    url, headers = on_loopback(served.url), {"Authorization": "Bearer sk-of-the-environment"}
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
    assert served.end(signal.SIGINT) == 0
    assert served.url + "/" in "".join(served.lines)
    assert not [line for line in served.lines if "sk-of" in line or "key" in line]


def test_keys_that_are_too_short(run: Callable[..., Any]) -> None:
    result = run("serve", "--port", 0, "--api-key", "short")
    assert result.code == 2
    assert "--api-key: an API key must be 8 or more" in result.err


def test_a_kv_cache_for_less_than_one_conversation(run: Callable[..., Any], seeded_q4: Path) -> None:
    result = run("serve", "-m", seeded_q4, "--port", 0, "--kv-positions", 100)
    assert result.code == 2
    assert "--kv-positions: n_positions must be at least 1024" in result.err


def test_no_bundle(run: Callable[..., Any]) -> None:
    result = run("serve", "--port", 0)
    assert result.code == 6
    assert "edge-llava convert" in result.err


def test_the_extra_is_named_where_it_is_missing(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.code == 3
    assert install_command("serve") in result.err


def test_ctrl_c_while_the_model_is_loaded(seeded_q4: Path) -> None:
    """Whenever it arrives, no process remains and no traceback is shown."""
    for wait_s in (0.4, 0.8, 1.2):
        process = subprocess.Popen(
            [*COMMAND, "-m", str(seeded_q4), "--port", "0", "-t", "1"], stderr=subprocess.PIPE, text=True
        )
        time.sleep(wait_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (0, 130, -signal.SIGINT)
        if process.returncode != -signal.SIGINT:  # before Python had begun with us
            assert "Traceback" not in err


def test_serving_loads_no_torch(start: Callable[..., Served]) -> None:
    served = start()
    assert ask(served.url).status_code == 200
    if sys.platform == "linux":
        maps = Path(f"/proc/{served.process.pid}/maps").read_text(encoding="utf-8")
        assert "libllama" in maps
        assert "libtorch" not in maps
    assert served.end(signal.SIGTERM) == 0


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_server_leaves_a_home_that_the_next_one_uses(start: Callable[..., Served]) -> None:
    served = start()
    assert ask(served.url).status_code == 200
    served.process.kill()
    served.process.wait()
    again = start()
    assert ask(again.url).status_code == 200
    assert again.end(signal.SIGTERM) == 0


def test_on_full(start: Callable[..., Served]) -> None:
    served = start("-c", "64", "--on-full", "drop-oldest", "--port", "0")
    messages = [{"role": ("user", "assistant")[n % 2], "content": "What is it?"} for n in range(41)]
    answer = httpx.post(f"{served.url}/v1/chat/completions", json={"messages": messages, "max_tokens": 2}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert 10 < int(answer.headers["x-edge-llava-dropped-turns"]) <= 20
    assert served.end(signal.SIGINT) == 0
