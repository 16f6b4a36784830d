"""The hub's own client against a hub on the loopback interface that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.convert
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# of xtuner's layout; the first is not at the top
PARTS = (
    "llm_adapter/adapter_model.safetensors", "projector/config.json", "projector/model.safetensors",
    "visual_encoder_adapter/adapter_config.json", "xtuner_config.py",
)  # fmt: skip
UNUSED_PARTS = ("projector/modeling_projector.py", "onnx/model.json", "optimizer/model.bin")


class Hub(BaseHTTPRequestHandler):
    """Serves the files of models; everything else is 404, and the model `owner/gated` requires a login."""

    models: dict[str, dict[str, bytes]]

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, send_body: bool) -> None:
        path = self.path.split("?")[0]
        asked, _, name = path.partition(f"/resolve/{COMMIT}/")
        files = self.models.get(asked.removeprefix("/api/models/").removeprefix("/"), {})
        if files and not name:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            body = json.dumps({"id": asked, "sha": COMMIT, "siblings": siblings}).encode()
            self._send(200, body, {"Content-Type": "application/json"}, send_body)
        elif name in files:
            body = files[name]
            etag = hashlib.sha256(body).hexdigest()
            self._send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, send_body)
        elif "gated" in path:
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "log in first"}, send_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, send_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], send_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)


@pytest.fixture(scope="module")
def endpoint(seeded_checkpoint: Path) -> Iterator[str]:
    files = {path.name: path.read_bytes() for path in seeded_checkpoint.iterdir()}
    files |= {"LICENSE": b"be kind", "pytorch_model.bin": b"not to be downloaded", "onnx/model.json": b"{}"}
    Hub.models = {"owner/demo": files, "owner/parts": dict.fromkeys([*PARTS, *UNUSED_PARTS], b"{}")}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def convert(endpoint: str, cache: Path, source: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edge_llava.cli import main; main()", "convert", source, "-o", str(out)]
    return run(command, endpoint, cache)


def run(command: list[str], endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_id_is_downloaded_and_converted(endpoint, tmp_path):
    done = convert(endpoint, tmp_path / "cache", "owner/demo", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert "downloading owner/demo" in done.stderr
    source = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["source"]
    assert source == {"layout": "hf", "license_files": ["LICENSE"], "name": "owner/demo", "revision": COMMIT}
    assert (tmp_path / "bundle" / "licenses" / "LICENSE").read_text() == "be kind"
    fetched = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "onnx"}


def test_directories_of_parts_are_downloaded(endpoint, tmp_path):
    program = "from edge_llava.converters.hub import download; print(download('owner/parts', lambda event: None)[0])"
    done = run([sys.executable, "-c", program], endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    directory = Path(done.stdout.strip())
    assert (directory.name, directory.parent.name) == (COMMIT, "snapshots")
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert found == set(PARTS)


@pytest.mark.parametrize(
    ("source", "says"), [("owner/none", "the hub refuses 'owner/none'"), ("owner/gated", "'owner/gated'")]
)
def test_what_the_hub_refuses_is_named(endpoint, tmp_path, source, says):
    done = convert(endpoint, tmp_path / "cache", source, tmp_path / "bundle")
    assert (done.returncode, done.stdout) == (4, "")
    assert says in done.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (["config.json", "pytorch_model-00001-of-00002.bin", "mm_projector.bin"], [0, 1]),
        (["config.json", "mm_projector.bin"], [0, 1]),
        (["config.json", "model.safetensors", "pytorch_model.bin"], [0, 1]),
        (["config.json", "adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin"], [0, 1, 2, 3]),
        (["config.json", "adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin"], [0, 1, 2, 3]),
    ],
)
def test_only_what_is_needed_is_downloaded(there, wanted):
    from edge_llava.converters.hub import _choose

    assert _choose(there) == [there[index] for index in wanted]
