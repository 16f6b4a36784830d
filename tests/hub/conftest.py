"""A hub and plain web server on the loopback interface, which can misbehave in every way that a network does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = re.compile(r"/(\w[\w.-]*/\w[\w.-]*)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        files: Bytes by path: "owner/name/manifest.json", or of a plain directory.
        redirects: Where the path of a file leads.
        redirect_status, redirect_body: Sent with every redirect.
        cuts: Bytes after which the next responses of a file end, each once.
        statuses: Of the next responses of a file, each once.
        has_ranges: Whether ranges are answered.
        shift: Added to the first byte of every range that is sent.
        drip: Bytes between pauses of 20 ms; 0: none.
        token: Wanted by owner/gated.
        requests: (path, range, authorization) of every GET.
        created: Repositories that were asked for, and whether private.
        sent: Bytes by path, with the range if one was asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    redirect_status: int = 302
    redirect_body: bytes = b""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    has_ranges: bool = True
    shift: int = 0
    drip: int = 0
    token: str = "hf_secret"
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    created: list[tuple[str, bool]] = field(default_factory=list)
    endpoint: str = ""

    def add(self, directory: Path, prefix: str) -> None:
        """Serves the files of a directory."""
        for path in directory.rglob("*"):
            if path.is_file():
                self.files[f"{prefix}/{path.relative_to(directory).as_posix()}"] = path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(sends_body=False)

    def do_GET(self) -> None:
        self._get(sends_body=True)

    def _get(self, *, sends_body: bool) -> None:
        path = unquote(self.path.split("?")[0])
        found = RESOLVE.fullmatch(path)
        key = f"{found[1]}/{found[3]}" if found else path.strip("/")
        authorization = self.headers.get("Authorization")
        self.hub.requests.append((path, self.headers.get("Range"), authorization))
        if about := re.fullmatch(r"/api/models/(.+)/revision/main", path):  # asked by older clients
            self._json({"id": about[1], "sha": COMMIT, "xetEnabled": False, "siblings": [], "tags": []})
        elif self.hub.statuses.get(key):
            self._send(self.hub.statuses[key].pop(0), b"", {"Retry-After": "0"})
        elif key.startswith("owner/gated/") and authorization != f"Bearer {self.hub.token}":
            self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        elif key in self.hub.redirects:
            self._send(
                self.hub.redirect_status,
                self.hub.redirect_body,
                {"Location": self.hub.redirects[key]},
                f"redirect of {key}",
            )
        elif key not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(key, sends_body=sends_body)

    def _send_file(self, key: str, *, sends_body: bool) -> None:
        data, status, headers = self.hub.files[key], 200, {"X-Repo-Commit": COMMIT, "ETag": '"x"'}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and self.hub.has_ranges:
            first = int(asked[1]) + self.hub.shift
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data, status = data[first:], 206
        headers["Content-Length"] = str(len(data))
        self._send(status, data if sends_body else b"", headers, key)

    def _send(self, status: int, body: bytes, headers: dict[str, str], key: str = "") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        cuts = self.hub.cuts.get(key)
        end = cuts.pop(0) if cuts else len(body)
        step = self.hub.drip or max(end, 1)
        sent = f"{key} {self.headers.get('Range', '')}".strip()
        try:
            for first in range(0, end, step):
                part = body[first : min(end, first + step)]
                self.wfile.write(part)
                self.hub.sent[sent] = self.hub.sent.get(sent, 0) + len(part)
                if self.hub.drip:
                    time.sleep(0.02)
        except OSError:  # the client was killed
            self.close_connection = True
        if end < len(body):
            self.close_connection = True

    def do_POST(self) -> None:
        """Creates repositories and takes commits, as the hub does."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._send(401, b"{}", {})
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.hub.created.append((f"{asked['organization']}/{asked['name']}", asked["private"]))
            self._json({"url": f"{self.hub.endpoint}/{asked['organization']}/{asked['name']}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    data = base64.b64decode(line["value"]["content"])
                    self.hub.files[f"{found[1]}/{line['value']['path']}"] = data
            self._json({"commitUrl": f"{self.hub.endpoint}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._send(404, b"{}", {})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def start_hub() -> Iterator[Callable[[], Hub]]:
    """start_hub() -> a server at an address of its own."""
    servers = []

    def start() -> Hub:
        hub = Hub()
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        servers.append(server)
        return hub

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(start_hub: Callable[[], Hub], licensed_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The hub that HF_ENDPOINT names, with one bundle at owner/model and the same at plain/."""
    hub = start_hub()
    hub.add(licensed_bundle, "owner/model")
    hub.add(licensed_bundle, "plain")
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-login"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return hub


@pytest.fixture
def licensed_bundle(seeded_q4: Path, tmp_path: Path) -> Path:
    """The seeded Q4 bundle with a licence file."""
    import shutil

    bundle = shutil.copytree(seeded_q4, tmp_path / "source" / "model")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["source"]["license_files"] = ["LICENSE"]
    (bundle / "licenses").mkdir(exist_ok=True)
    (bundle / "licenses" / "LICENSE").write_text("be kind")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def digests(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(name="digests")
def _digests() -> Callable[[Path], dict[str, str]]:
    return digests
