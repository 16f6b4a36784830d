"""What users type, and where a token may go."""

from __future__ import annotations

import pytest

from edge_llava.errors import TransferError
from edge_llava.hub.address import read_address

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _example_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("typed", "base", "name"),
    [
        ("Owner/Some_Model", "https://hub.example/Owner/Some_Model/resolve/main/", "some_model"),
        ("a/b@v1.0", "https://hub.example/a/b/resolve/v1.0/", "b"),
        ("a/b@refs/pr/1", "https://hub.example/a/b/resolve/refs%2Fpr%2F1/", "b"),
        ("https://hub.example/a/b", "https://hub.example/a/b/resolve/main/", "b"),
        ("https://hub.example/a/b/tree/dev", "https://hub.example/a/b/resolve/dev/", "b"),
        ("https://hub.example/a/b/blob/dev/manifest.json", "https://hub.example/a/b/resolve/dev/", "b"),
        ("https://hub.example/a/b/blob/dev/README.md", "https://hub.example/a/b/resolve/dev/", "b"),
        ("https://hub.example/a/b/resolve/v1/", "https://hub.example/a/b/resolve/v1/", "b"),
        ("https://hub.example/a/b/tree/refs%2Fpr%2F1", "https://hub.example/a/b/resolve/refs%2Fpr%2F1/", "b"),
        ("https://x.example/", "https://x.example/", "x.example"),
        ("https://x.example/deep/Llava%207B/", "https://x.example/deep/Llava%207B/", "llava-207b"),
        ("https://x.example/l/manifest.json", "https://x.example/l/", "l"),
        ("http://[::1]:8000/l", "http://[::1]:8000/l/", "l"),
    ],
)
def test_addresses(typed, base, name):
    address = read_address(typed)
    assert (address.base, address.name) == (base, name)


def test_paths_are_encoded_and_a_commit_takes_the_place_of_a_branch():
    address = read_address("a/b@dev")
    assert address.url("x/y z?.gguf").endswith("/dev/x/y%20z%3F.gguf")
    assert address.at_commit(COMMIT).base == f"https://hub.example/a/b/resolve/{COMMIT}/"
    assert address.at_commit("../../evil") == address.at_commit(None) == address
    plain = read_address("https://x.example/l")
    assert plain.at_commit(COMMIT) == plain


@pytest.mark.parametrize("path", ["a/b/resolve/dev/manifest.json", "a/b/blob/dev/manifest.json", "a/b/tree/dev"])
def test_pages_of_a_hub_are_its_repository(path):
    address = read_address(f"https://hub.example/{path}")
    assert (address.shown, address.repository, address.token) == ("a/b@dev", "a/b", "hf_secret")


@pytest.mark.parametrize(
    "typed", ["", "a", "a/b/c", "-a/b", "a/b@", "a/b@..", "a b/c", "a/b\n", "https://ex\u00e4mple/x"]
)
def test_what_is_no_address(typed):
    with pytest.raises(TransferError):
        read_address(typed)


def test_http_beyond_this_computer_must_be_allowed():
    with pytest.raises(TransferError, match="--insecure-http"):
        read_address("http://x.example/l")
    address = read_address("http://x.example/l", may_be_insecure=True)
    address.check_url("http://y.example/l")
    with pytest.raises(TransferError):
        read_address("https://x.example/l", may_be_insecure=True).check_url("http://x.example/l")


@pytest.mark.parametrize(
    "url",
    ["http://hub.example/a", "https://hub.example:444/a", "https://hub.example.evil/a", "https://cdn.hub.example/a"],
)
def test_a_token_is_for_one_origin(url):
    address = read_address("a/b")
    assert address.may_get_token("https://hub.example/other")
    assert not address.may_get_token(url)


def test_a_token_is_never_sent_in_the_open(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    address = read_address("a/b", may_be_insecure=True)
    assert not address.may_get_token(address.base)


def test_a_token_that_would_break_a_header_is_not_used(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x\r\nHost: evil")
    assert read_address("a/b").token is None
