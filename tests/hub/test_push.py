"""`edge-llava push`, and the bundle as `edge-llava pull` gets it back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.contents import CARD_MARK
from edge_llava.hub.card import write_card


@pytest.fixture
def serve():
    """serve(directory) -> address of a plain web server, Python's own, which knows no ranges."""
    servers = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    def start(directory):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=directory))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_directory_is_fetched_from_a_web_server(run, licensed_bundle, tmp_path, home, serve, digests):
    (licensed_bundle / "notes.txt").write_text("mine")
    site = tmp_path / "site" / "llava"
    done = run("push", site, "-m", licensed_bundle)
    assert (done.code, done.out) == (0, f"{site}\n")
    assert "license" in (site / "README.md").read_text().lower()
    assert run("pull", f"{serve(tmp_path / 'site')}/llava").code == 0
    (licensed_bundle / "notes.txt").unlink()
    assert digests(home / "bundles" / "llava") == digests(licensed_bundle)


def test_a_directory_is_replaced_by_force_alone_and_only_if_it_is_a_bundle(run, licensed_bundle, tmp_path):
    assert run("push", tmp_path / "out", "-m", licensed_bundle).code == 0
    assert run("push", tmp_path / "out", "-m", licensed_bundle).code == 13
    assert run("push", tmp_path / "out", "-m", licensed_bundle, "--force").code == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("mine")
    refused = run("push", tmp_path / "photos", "-m", licensed_bundle, "--force")
    assert (refused.code, refused.out) == (13, "")
    assert (tmp_path / "photos" / "mine.txt").read_text() == "mine"
    (tmp_path / "photos" / "manifest.json").write_text('{"name": "an app", "icons": []}')
    assert run("push", tmp_path / "photos", "-m", licensed_bundle, "--force").code == 13
    assert len(list((tmp_path / "photos").iterdir())) == 2
    assert run("push", licensed_bundle, "-m", licensed_bundle, "--force").code == 13
    assert run("push", "name", "-m", licensed_bundle).code == 2


@pytest.mark.parametrize("foreign", ["notes.txt", "album/img.jpg", "README.md"])
def test_a_bundle_with_files_of_others_is_not_replaced(run, licensed_bundle, tmp_path, foreign):
    out = tmp_path / "out"
    assert run("push", out, "-m", licensed_bundle).code == 0
    (out / foreign).parent.mkdir(exist_ok=True)
    (out / foreign).write_text("mine")
    refused = run("push", out, "-m", licensed_bundle, "--force")
    assert refused.code == 13
    assert refused.err.splitlines()[-2:] == [f"  - {foreign}", "Move them, or name another directory."]
    assert (out / foreign).read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "ReadMe.MD", "LICENSES"])
def test_a_file_in_the_place_of_what_push_writes_is_refused(run, licensed_bundle, tmp_path, name):
    manifest = json.loads((licensed_bundle / "manifest.json").read_text())
    shutil.rmtree(licensed_bundle / "licenses")
    manifest["source"]["license_files"] = []
    (licensed_bundle / manifest["files"]["language"]["path"]).rename(licensed_bundle / name)
    manifest["files"]["language"]["path"] = name
    (licensed_bundle / "manifest.json").write_text(json.dumps(manifest))
    done = run("push", tmp_path / "out", "-m", licensed_bundle)
    assert done.code == 6
    assert f"'{name}' is reserved" in done.err
    assert not (tmp_path / "out").exists()


def test_a_link_stays_where_its_directory_is_replaced(run, licensed_bundle, tmp_path):
    served, link = tmp_path / "served", tmp_path / "link"
    assert run("push", served, "-m", licensed_bundle).code == 0
    link.symlink_to(served)
    (served / "README.md").write_text(f"old {CARD_MARK}")
    assert run("push", link, "-m", licensed_bundle, "--force").code == 0
    assert link.is_symlink()
    assert not (served / "README.md").read_text().startswith("old")
    assert (served / "manifest.json").is_file()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_bundle_is_not_published(run, licensed_bundle, tmp_path, damage):
    path = licensed_bundle / "language.gguf"
    path.write_bytes(damage(path.read_bytes()))
    assert run("push", tmp_path / "out", "-m", licensed_bundle).code == 6
    assert not (tmp_path / "out").exists()


def test_a_missing_licence_is_named(run, licensed_bundle, tmp_path):
    shutil.rmtree(licensed_bundle / "licenses")
    done = run("push", tmp_path / "out", "-m", licensed_bundle)
    assert done.code == 6
    assert "licenses/LICENSE" in done.err


def push(*arguments, token):
    """In a process of its own: the hub's client reads its variables once."""
    program = "import sys; from edge_llava.cli import main; main(['push', *sys.argv[1:]])"
    environment = {**os.environ, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_hub_gives_back_what_it_got(run, hub, licensed_bundle, home, digests):
    pytest.importorskip("huggingface_hub")
    asked = push("somebody/new", "-m", licensed_bundle, token=hub.token)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "--yes" in asked.stderr
    done = push("somebody/new", "-m", licensed_bundle, "--yes", "--json", token=hub.token)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"] == f"{hub.endpoint}/somebody/new"
    assert hub.created == [("somebody/new", True)]
    card = hub.files["somebody/new/README.md"].decode()
    assert "edge-llava pull somebody/new" in card
    assert run("pull", "somebody/new").code == 0
    assert digests(home / "bundles" / "new") == digests(licensed_bundle)
    assert "install edge-llava" in card
    assert "pip install" not in card
    hub.files["somebody/new/README.md"] = f"{CARD_MARK} of an older bundle".encode()
    assert push("somebody/new", "-m", licensed_bundle, "--yes", token=hub.token).returncode == 0
    assert hub.files["somebody/new/README.md"].decode() == card
    hub.files["somebody/new/README.md"] = b"my own words"
    assert push("somebody/new", "-m", licensed_bundle, "--yes", "--public", token=hub.token).returncode == 0
    assert hub.created[2:] == [("somebody/new", False)]
    assert hub.files["somebody/new/README.md"] == b"my own words"


def test_a_hub_that_refuses(hub, licensed_bundle):
    pytest.importorskip("huggingface_hub")
    done = push("somebody/new", "-m", licensed_bundle, "--yes", token="hf_other")
    assert (done.returncode, done.stdout) == (13, "")
    assert "HF_TOKEN" in done.stderr
    assert "hf_other" not in done.stderr


def test_without_the_hubs_client(run, licensed_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = run("push", "owner/name", "-m", licensed_bundle, "--yes")
    assert done.code == 3
    assert "[convert]" in done.err


def test_a_card_holds_no_markup_of_the_manifests(licensed_bundle):
    manifest = json.loads((licensed_bundle / "manifest.json").read_text())
    manifest["source"]["name"] = "x\n---\n<script>alert(1)</script> [a](javascript:b)"
    (licensed_bundle / "manifest.json").write_text(json.dumps(manifest))
    card = write_card(Bundle.open(licensed_bundle), "owner/name")
    assert card.count(CARD_MARK) == 1
    assert "<" not in card.replace(CARD_MARK, "")
    assert "[a]" not in card
    assert card.count("\n---\n") == 1
    for entry in Bundle.open(licensed_bundle).manifest.files.values():
        assert entry.sha256 in card
