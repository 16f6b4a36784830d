"""`edge-llava pull` against a hub and a web server on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BundleError, TransferError
from edge_llava.home.directories import default_bundle
from edge_llava.hub.address import read_address
from edge_llava.hub.pull import find_offer, pull
from edge_llava.hub.web import Patience

AT_ONCE = Patience(timeout_s=5, n_tries=3, wait_s=0.0)
BIG = "language.gguf"


def fetch(address="owner/model", warn=lambda text: None):
    return pull(find_offer(read_address(address), AT_ONCE, warn=warn), patience=AT_ONCE, warn=warn)


def edit_manifest(hub, change, place="owner/model"):
    manifest = json.loads(hub.files[f"{place}/manifest.json"])
    change(manifest)
    hub.files[f"{place}/manifest.json"] = json.dumps(manifest).encode()


@pytest.mark.parametrize("address", ["owner/model", "owner/model@main", "PLAIN", "PLAIN/manifest.json", "PAGE"])
def test_every_byte_arrives(run, hub, home, licensed_bundle, digests, address):
    shown = address.replace("PLAIN", f"{hub.endpoint}/plain").replace("PAGE", f"{hub.endpoint}/owner/model/tree/main")
    done = run("pull", shown, "--name", "mine")
    assert (done.code, done.out) == (0, f"{home / 'bundles' / 'mine'}\n")
    assert digests(home / "bundles" / "mine") == digests(licensed_bundle)
    assert default_bundle() == "mine"
    said = done.err
    assert said.index("313.7 kB") < said.index("downloading")
    assert "LICENSE" in said
    assert [path.name for path in (home / "bundles").iterdir()] == ["mine"]


def test_the_files_come_from_the_commit_of_the_manifest(run, hub):
    assert run("pull", "owner/model", "--json").code == 0
    first, *others = (path for path, _, _ in hub.requests)
    assert first == "/owner/model/resolve/main/manifest.json"
    assert all(path.startswith("/owner/model/resolve/0123456789abcdef") for path in others)


def test_a_second_pull_fetches_nothing_but_the_manifest(run, hub):
    assert run("pull", "owner/model").code == 0
    hub.requests.clear()
    again = run("pull", "owner/model", "--json")
    assert json.loads(again.out)["fetched_bytes"] == 0
    assert [path.rpartition("/")[2] for path, _, _ in hub.requests] == ["manifest.json"]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (BIG, lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        (BIG, lambda data: data[:1000]),
        (BIG, None),
        ("licenses/LICENSE", None),
    ],
)
def test_a_damaged_bundle_is_repaired(run, hub, home, licensed_bundle, digests, file, damage):
    assert run("pull", "owner/model").code == 0
    path = home / "bundles" / "model" / file
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    hub.sent.clear()
    done = run("pull", "owner/model", "--json")
    assert done.code == 0
    assert "damaged" in done.err
    size = (licensed_bundle / BIG).stat().st_size
    assert json.loads(done.out)["fetched_bytes"] == (size if file == BIG else 0)
    assert set(hub.sent) == {f"owner/model/{name}" for name in (file, "manifest.json", "licenses/LICENSE")}
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)
    Bundle.open(home / "bundles" / "model").verify_digests(trust_earlier=True)
    assert [path.name for path in (home / "bundles").iterdir()] == ["model"]


def test_an_interrupted_repair_leaves_the_files_that_are_whole(hub, home, licensed_bundle, digests):
    fetch()
    path = home / "bundles" / "model" / BIG
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    before = digests(home / "bundles" / "model")
    hub.statuses[f"owner/model/{BIG}"] = [404]
    with pytest.raises(TransferError):
        fetch()
    assert digests(home / "bundles" / "model") == before
    fetch()
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)


def test_the_size_is_said_of_what_is_missing_alone(run, hub, home, licensed_bundle):
    assert run("pull", "owner/model").code == 0
    hub.statuses["owner/model/vision.onnx"] = [404]
    files = json.loads((licensed_bundle / "manifest.json").read_text())["files"]
    assert run("pull", "owner/model", "--force").code == 13
    growing = home / "bundles" / "model.download.partial"
    n_there = sum((growing / e["path"]).stat().st_size for e in files.values() if (growing / e["path"]).exists())
    assert n_there > 0
    forced = json.loads(run("pull", "owner/model", "--force", "--json").out)
    assert forced["fetched_bytes"] == sum(entry["bytes"] for entry in files.values()) - n_there


def test_another_bundle_is_replaced_by_force_alone(run, hub, home, digests, licensed_bundle):
    assert run("pull", "owner/model").code == 0
    before = digests(home / "bundles" / "model")
    edit_manifest(hub, lambda manifest: manifest.update(notice="Newer."))
    refused = run("pull", "owner/model")
    assert (refused.code, refused.out) == (6, "")
    assert "--force" in refused.err
    assert digests(home / "bundles" / "model") == before
    assert run("pull", "owner/model", "--force").code == 0
    assert Bundle.open(home / "bundles" / "model").manifest.notice == "Newer."
    assert [path.name for path in (home / "bundles").iterdir()] == ["model"]


def test_a_killed_pull_fetches_the_rest_alone(hub, home, licensed_bundle, digests):
    hub.drip = 8192
    program = "from edge_llava.cli import main; main(['pull', 'owner/model'])"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    growing = home / "bundles" / "model.download.partial" / BIG
    while not growing.exists() or growing.stat().st_size < 50_000:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (home / "bundles" / "model").exists()
    n_there = growing.stat().st_size
    assert 0 < n_there < (licensed_bundle / BIG).stat().st_size
    hub.drip = 0
    hub.sent.clear()
    hub.requests.clear()
    fetch()
    assert [asked for path, asked, _ in hub.requests if path.endswith(BIG)] == [f"bytes={n_there}-"]
    n_rest = (licensed_bundle / BIG).stat().st_size - n_there
    assert hub.sent[f"owner/model/{BIG} bytes={n_there}-"] == n_rest
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)


def test_ctrl_c_keeps_what_arrived(hub, home):
    hub.drip = 8192
    program = "from edge_llava.cli import main; main(['pull', 'owner/model'])"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    growing = home / "bundles" / "model.download.partial" / BIG
    while not growing.exists() or growing.stat().st_size < 20_000:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command resumes" in said
    assert growing.stat().st_size >= 20_000


@pytest.mark.parametrize("has_ranges", [True, False])
def test_cut_connections_and_busy_servers(hub, home, licensed_bundle, digests, has_ranges):
    hub.has_ranges = has_ranges
    hub.cuts[f"owner/model/{BIG}"] = [1000, 5000, 2000]
    hub.statuses |= {"owner/model/manifest.json": [503], f"owner/model/{BIG}": [429, 500]}
    said = []
    fetch(warn=said.append)
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)
    assert [text for text in said if "status 503" in text]
    assert len(said) == 6
    sizes = [asked for path, asked, _ in hub.requests if path.endswith(BIG) and asked]
    assert sizes[:2] == ["bytes=1000-", "bytes=6000-"] if has_ranges else len(sizes) == 3


def test_a_server_that_cuts_each_time_at_the_same_place_is_given_up(hub, home):
    hub.has_ranges = False
    hub.cuts[f"owner/model/{BIG}"] = [1000] * 50
    with pytest.raises(TransferError, match="closed early"):
        fetch()
    assert len(hub.cuts[f"owner/model/{BIG}"]) > 40


def test_a_range_that_was_not_asked_for_is_not_used(hub, home, licensed_bundle, digests):
    hub.cuts[f"owner/model/{BIG}"] = [1000]
    hub.shift = 7
    fetch()
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)


def test_wrong_bytes_are_refused_by_name_and_fetched_again(hub, home, licensed_bundle, digests):
    good = hub.files[f"owner/model/{BIG}"]
    hub.files[f"owner/model/{BIG}"] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(TransferError, match=f"{BIG}: its sha256 is"):
        fetch()
    assert not (home / "bundles" / "model").exists()
    hub.files[f"owner/model/{BIG}"] = good
    hub.sent.clear()
    fetch()
    assert set(hub.sent) == {f"owner/model/{name}" for name in (BIG, "manifest.json", "licenses/LICENSE")}
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_a_file_of_another_size_is_refused(hub, home, change):
    hub.files[f"owner/model/{BIG}"] = change(hub.files[f"owner/model/{BIG}"])
    with pytest.raises(TransferError, match=BIG):
        fetch()
    assert not (home / "bundles" / "model").exists()


def test_what_arrived_of_another_version_is_dropped(hub, home, licensed_bundle, digests):
    growing = home / "bundles" / "model.download.partial"
    growing.mkdir(parents=True)
    (growing / "manifest.json").write_text("{}")
    (growing / BIG).write_bytes(b"of another version")
    (growing / "old.gguf").write_bytes(b"x")
    fetch()
    assert digests(home / "bundles" / "model") == digests(licensed_bundle)


@pytest.mark.parametrize(
    "path",
    [
        "../escaped",
        "/tmp/escaped",
        "C:x",
        "a\\b",
        "manifest.json",
        "licenses/x",
        ".edge-llava-unfinished",
        ".",
        "README.md",
        "Manifest.JSON",
        "LICENSES/x",
        "readme.md. ",
        "PROJECTOR.gguf",
    ],
)
def test_paths_that_leave_the_bundle_are_refused_before_anything_is_written(hub, home, path):
    edit_manifest(hub, lambda manifest: manifest["files"]["language"].update(path=path))
    with pytest.raises(BundleError):
        fetch()
    assert not (home / "bundles").exists()
    assert len(hub.requests) == 1


@pytest.mark.parametrize("name", ["../LICENSE", "a/b", "..", "x\\y", "C:x", "\u202e", ""])
def test_licence_files_have_plain_names(hub, home, name):
    edit_manifest(hub, lambda manifest: manifest["source"].update(license_files=[name]))
    with pytest.raises(BundleError):
        fetch()
    assert not (home / "bundles").exists()


def test_two_files_of_one_path_are_refused(hub):
    def change(manifest):
        manifest["files"]["language"]["path"] = manifest["files"]["vision"]["path"] + "/below"

    edit_manifest(hub, change)
    with pytest.raises(BundleError, match="twice"):
        fetch()


@pytest.mark.parametrize("manifest", [b"\xff", b"<html>", b"[" * 100_000, b"[]", b"{}"])
def test_what_is_no_manifest_is_refused(hub, home, manifest):
    hub.files["owner/model/manifest.json"] = manifest
    with pytest.raises(BundleError, match="Check that this is the address of a bundle"):
        fetch()
    assert not (home / "bundles").exists()


def test_a_huge_manifest_is_not_read_to_its_end(hub):
    hub.files["owner/model/manifest.json"] = b" " * (40 << 20)
    with pytest.raises(TransferError, match="16,777,216"):
        fetch()


def test_a_slow_drip_ends(hub):
    hub.drip = 1
    with pytest.raises(TransferError, match=r"0\.1 s"):
        find_offer(read_address("owner/model"), Patience(small_s=0.1))


def test_the_token_goes_to_the_hub_and_not_along_with_redirects(hub, start_hub, licensed_bundle, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    storage = start_hub()
    storage.add(licensed_bundle, "blobs")
    hub.add(licensed_bundle, "owner/gated")
    for path in licensed_bundle.iterdir():
        if path.suffix == ".gguf":
            hub.redirects[f"owner/gated/{path.name}"] = f"{storage.endpoint}/blobs/{path.name}"
    hub.redirects["owner/gated/vision.onnx"] = "/owner/model/resolve/main/vision.onnx"
    fetch("owner/gated")
    assert {token for _, _, token in hub.requests} == {f"Bearer {hub.token}"}
    assert [token for _, _, token in storage.requests] == [None, None]


def test_the_token_of_a_login_is_used(hub, licensed_bundle, monkeypatch, tmp_path):
    hub.add(licensed_bundle, "owner/gated")
    (tmp_path / "token").write_text(f"{hub.token}\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    fetch("owner/gated")


def test_a_web_server_never_gets_the_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    fetch(f"{hub.endpoint}/plain/")
    assert {token for _, _, token in hub.requests} == {None}


@pytest.mark.parametrize("target", ["http://192.0.2.1/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_lead_to_allowed_addresses_alone(hub, target):
    hub.redirects["owner/model/manifest.json"] = target
    with pytest.raises(TransferError):
        fetch()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_body_of_a_redirect_is_not_read(hub, status):
    hub.redirects["owner/model/manifest.json"] = "/owner/model/resolve/other/moved.json"
    hub.files["owner/model/moved.json"] = hub.files["owner/model/manifest.json"]
    hub.redirect_status, hub.redirect_body = status, b" " * (64 << 20)
    find_offer(read_address("owner/model"), AT_ONCE)
    assert not [key for key in hub.sent if key.startswith("redirect")]  # counted once it is sent


def test_redirects_in_a_circle_end(hub):
    hub.redirects["owner/model/manifest.json"] = "/owner/model/resolve/main/manifest.json"
    with pytest.raises(TransferError):
        fetch()
    assert len(hub.requests) < 20


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [
        ("owner/nothing", 13, "there is no bundle at owner/nothing"),
        ("owner/checkpoint", 13, "edge-llava convert owner/checkpoint"),
        ("owner/gated", 13, "HF_TOKEN"),
        ("http://192.0.2.1/bundle/", 13, "--insecure-http"),
        ("ftp://example.com/x", 13, "https"),
        ("https://user:secret@example.com/x", 13, "password"),
        ("https://example.com/x?key=1", 13, "'?'"),
        ("./directory", 13, "-m DIRECTORY"),
        ("llava:7b", 13, "OWNER/NAME"),
        ("demo", 13, "edge-llava chat demo:1"),
        ("owner/name@../../x", 13, "OWNER/NAME"),
        ("https://", 13, "not a web address"),
        ("https://[x/", 13, "not a web address"),
        ("http://127.0.0.1:1/bundle/", 13, "Check the network"),
        ("owner/model --name ../x", 6, "cannot name a bundle"),
    ],
)
def test_what_cannot_be_fetched(run, hub, home, address, code, says):
    hub.files["owner/checkpoint/config.json"] = b"{}"
    done = run("pull", *address.split(" "))
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "secret" not in done.err
    assert not (home / "bundles").exists()


def test_https_to_a_server_without_it_is_not_tried_again(hub):
    address = read_address(hub.endpoint.replace("http://", "https://"))
    with pytest.raises(TransferError, match="does not answer in https"):
        find_offer(address, Patience(n_tries=3, wait_s=1000))


def test_a_link_and_what_it_leads_to_are_left_alone(run, hub, home, seeded_q4, tmp_path, digests):
    elsewhere = shutil.copytree(seeded_q4, tmp_path / "elsewhere")
    (home / "bundles").mkdir()
    (home / "bundles" / "model").symlink_to(elsewhere)
    before = digests(elsewhere)
    assert run("pull", "owner/model", "--force").code == 6
    assert digests(elsewhere) == before
    assert (home / "bundles" / "model").is_symlink()


def test_offline_means_offline(run, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in run("pull", "owner/model").err
    assert hub.requests == []


def test_a_full_disk_is_found_out_before_the_download(run, hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    done = run("pull", "owner/model")
    assert done.code == 13
    assert "EDGE_LLAVA_HOME" in done.err
    assert [path.rpartition("/")[2] for path, _, _ in hub.requests] == ["manifest.json"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(run, hub, home):
    home.chmod(0o500)
    try:
        assert run("pull", "owner/model").code == 13
    finally:
        home.chmod(0o700)


def test_the_terminal_is_safe_from_a_manifest(run, hub):
    edit_manifest(hub, lambda manifest: manifest["source"].update(name="\x1b[2Jx"))
    assert "\x1b" not in run("pull", "owner/model").err


def test_an_untrusted_certificate_is_not_accepted(hub, tmp_path, run):
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        capture_output=True, check=False,
    ) if shutil.which("openssl") else None  # fmt: skip
    if made is None or made.returncode:
        pytest.skip("there is no openssl")

    class Silent(BaseHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass

    server = Server(("127.0.0.1", 0), Silent)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = run("pull", f"https://127.0.0.1:{server.server_address[1]}/bundle/")
    server.shutdown()
    server.server_close()
    assert done.code == 13
    assert "certificate" in done.err


def test_two_pulls_of_one_bundle_do_not_meet(run, hub, home):
    from edge_llava.home.lock import hold

    (home / "bundles").mkdir()
    with hold(home / "bundles" / "model"):
        done = run("pull", "owner/model")
    assert done.code == 6
    assert "another command" in done.err
