"""Dockerfiles, compose files and the unit of systemd: what they name exists, and their commands can be parsed."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest

from edge_llava.cli import cli
from edge_llava.errors import BundleError, MissingExtra

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "packaging" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
UNIT = ROOT / "packaging" / "systemd" / "edge-llava.service"

each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)


def read_dockerfile(path):
    """(instruction, arguments) of each line of a Dockerfile, with continuations, without comments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def last(path, instruction):
    return [arguments for name, arguments in read_dockerfile(path) if name == instruction][-1]


def parse(words):
    """What a command of edge-llava was given; nothing runs."""
    name, *rest = words
    command = cli.get_command(click.Context(cli), name)
    return command.make_context(name, rest).params


def read_unit(text):
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    return unit


def test_there_is_one_for_cpus_and_one_for_cuda():
    assert [path.stem for path in DOCKERFILES] == ["cpu", "cuda"]


@each_dockerfile
def test_copies_what_is_here(path):
    copied = [arguments.split()[:-1] for name, arguments in read_dockerfile(path) if name == "COPY"]
    named = [source for sources in copied for source in sources if not sources[0].startswith("--from")]
    assert named
    assert [source for source in named if not (ROOT / source).exists()] == []
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {folder.partition("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    assert {"edge_llava", *folders, project["project"]["readme"], *project["project"]["license-files"]} <= set(named)


@each_dockerfile
def test_extras_exist(path):
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    defaults = dict(one.split("=", 1) for name, one in read_dockerfile(path) if name == "ARG" and "=" in one)
    (named,) = re.findall(r"/src\[([^]]+)\]", path.read_text("utf-8"))
    named = re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], named)
    assert set(named.split(",")) <= extras.keys()


@each_dockerfile
def test_serves_to_other_computers_as_a_user_without_rights(path):
    command = [*json.loads(last(path, "ENTRYPOINT")), *json.loads(last(path, "CMD"))]
    assert command[0] == "edge-llava"
    given = parse(command[1:])
    assert (given["host"], given["port"]) == ("0.0.0.0", int(last(path, "EXPOSE")))
    uid = int(last(path, "USER"))
    assert uid > 0
    assert f"--uid {uid} " in last(path, "RUN")
    home = re.search(r"EDGE_LLAVA_HOME=(\S+)", last(path, "ENV"))
    assert home is not None
    assert home[1] == last(path, "VOLUME")
    assert f"install -d -o edge-llava {home[1]}" in last(path, "RUN")


def test_both_images_run_alike():
    endings = {path.read_text("utf-8").partition("COPY --from=build")[2] for path in DOCKERFILES}
    assert len(endings) == 1


class Health(BaseHTTPRequestHandler):
    """A server whose health is a status."""

    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@each_dockerfile
def test_health_check_asks_the_server(path):
    _, _, command = last(path, "HEALTHCHECK").partition("CMD ")
    (program, *arguments), port = json.loads(command), int(last(path, "EXPOSE"))
    assert program == "python"
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        there = [one.replace(str(port), str(server.server_port)) for one in arguments]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        codes = []
        for Health.status in (200, 503):
            codes.append(subprocess.run([sys.executable, *there], check=False).returncode)
        server.shutdown()
        thread.join()
    closed = subprocess.run([sys.executable, *there], stderr=subprocess.DEVNULL, check=False).returncode
    assert there != arguments
    assert codes == [0, 1]
    assert closed != 0


def test_compose_asks_for_a_key_and_stays_on_this_computer():
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))["services"]["edge-llava"]
    assert service["environment"]["EDGE_LLAVA_API_KEY"].startswith("${EDGE_LLAVA_API_KEY:?")
    port = last(DOCKER / "cpu.Dockerfile", "EXPOSE")
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    volume, bundle = service["volumes"]
    assert volume == f"data:{last(DOCKER / 'cpu.Dockerfile', 'VOLUME')}"
    assert bundle.endswith(":ro")
    cuda = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text("utf-8"))["services"]["edge-llava"]
    context = (DOCKER / service["build"]["context"]).resolve()
    assert context == ROOT
    for one in (service, cuda):
        assert (context / one["build"]["dockerfile"]).is_file()


def test_unit_runs_a_command_and_stops_where_trying_again_is_in_vain():
    unit = read_unit(UNIT.read_text("utf-8"))["Service"]
    program, *words = shlex.split(unit["ExecStart"])
    assert program.endswith("/edge-llava")
    assert words[-1] == "$SERVE_OPTIONS"
    parse(words[:-1])
    codes = {click.UsageError.exit_code, MissingExtra.exit_code, BundleError.exit_code}
    assert set(map(int, unit["RestartPreventExitStatus"].split())) == codes


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_reads_the_unit(tmp_path):
    program = shlex.split(read_unit(UNIT.read_text("utf-8"))["Service"]["ExecStart"])[0]
    place = tmp_path / UNIT.name
    place.write_text(UNIT.read_text("utf-8").replace(program, sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", place], capture_output=True, text=True, check=False)
    # it also reads units of this computer, about which it may complain
    assert [line for line in checked.stderr.splitlines() if UNIT.name in line] == []
