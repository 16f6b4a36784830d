"""Where a bundle lies: a hub's repository, or a directory of a plain web server.

Source of the hub's addresses, variables and token file: the `huggingface_hub` library.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

from edge_llava.demo import NAME
from edge_llava.errors import TransferError
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.home.regular_file import read_text

_DEFAULT_HUB = "https://huggingface.co"
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w.][\w./-]{0,200}))?", re.ASCII)
_PAGE = re.compile(r"([^/]+/[^/]+)(?:/(?:tree|resolve)/([^/]+)|/blob/([^/]+)(?:/.*)?)?")  # of a hub, for people
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = ("1", "ON", "YES", "TRUE")
_PORTS = {"http": 80, "https": 443}
Origin: TypeAlias = tuple[str, str, int]  # scheme, host, port


@dataclass(frozen=True)
class Address:
    """The address of a bundle.

    Attributes:
        shown: What people call it: "owner/name", or the web address.
        base: URL of its directory, with a slash at the end.
        name: What the bundle is called in the home unless the user says otherwise.
        repository: "owner/name" on a hub; None on a plain web server.
        token: Sent to the origin of `base` and to no other.
        may_be_insecure: Whether http is allowed beyond this computer.
    """

    shown: str
    base: str
    name: str
    repository: str | None = None
    token: str | None = None
    may_be_insecure: bool = False

    def url(self, path: str) -> str:
        """The URL of a file of the bundle, by its path in the manifest."""
        return self.base + quote(path)

    def at_commit(self, commit: str | None) -> Address:
        """The same repository at the commit that the hub named, so that all files belong together."""
        if self.repository is None or commit is None or not _COMMIT.fullmatch(commit):
            return self
        root, _, _ = self.base.rstrip("/").partition(f"/{self.repository}/resolve/")
        return replace(self, base=_resolve(root, self.repository, commit))

    def check_url(self, url: str) -> None:
        """
        Raises:
            TransferError: If nothing is fetched from such a URL.
        """
        scheme, host, _ = read_origin(url)
        is_plain = urlsplit(self.base).scheme == "http"
        if scheme == "https" or (is_plain and scheme == "http" and (self.may_be_insecure or is_loopback(host))):
            return
        if scheme == "http" and not is_plain:
            raise TransferError(f"{self.shown} redirects from https to http, which is not followed.")
        if scheme == "http":
            raise TransferError(
                f"{url} is not encrypted: anyone on the network path can replace the bundle and its digests together. "
                "Use https, or allow it with --insecure-http."
            )
        raise TransferError(f"{url} is not an https address.")

    def may_get_token(self, url: str) -> bool:
        """Whether the token may be sent to a URL."""
        scheme, host, _ = origin = read_origin(url)
        return self.token is not None and origin == read_origin(self.base) and (scheme == "https" or is_loopback(host))


def read_address(text: str, *, may_be_insecure: bool = False) -> Address:
    """Reads what a user typed: OWNER/NAME, OWNER/NAME@REVISION, or the address of a directory on a web server.

    Args:
        text: As typed.
        may_be_insecure: Allow http beyond this computer.

    Raises:
        TransferError: If it is none of these, or nothing may be fetched from there.
    """
    if text == NAME:
        raise TransferError("the demo comes with edge-llava and needs no download: edge-llava chat demo:1")
    if "://" in text:
        return _read_url(text, may_be_insecure=may_be_insecure)
    found = _REPOSITORY.fullmatch(text)
    if found is None or ".." in (found[2] or ""):
        raise TransferError(
            f"{text!r} is neither OWNER/NAME, OWNER/NAME@REVISION nor a web address (https://...). "
            "A bundle in a directory needs no download: use it with -m DIRECTORY."
        )
    return _on_hub(found[1], found[2] or "main", may_be_insecure=may_be_insecure)


def is_repository(text: str) -> bool:
    """Whether a text is OWNER/NAME."""
    found = _REPOSITORY.fullmatch(text)
    return found is not None and found[2] is None


def hub_endpoint() -> str:
    """The hub's URL, without a slash at the end; HF_ENDPOINT moves it."""
    return (os.environ.get("HF_ENDPOINT") or _DEFAULT_HUB).rstrip("/")


def hub_token() -> str | None:
    """The user's token for the hub: HF_TOKEN, or the file in which a login of the hub's tools left it."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
        home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
        path = os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")
        try:
            token = read_text(Path(os.path.expanduser(path)))
        except (OSError, UnicodeDecodeError):
            return None  # no login
    token = token.strip()
    return token if token and token.isascii() and token.isprintable() else None


def is_loopback(host: str) -> bool:
    """Whether a host is this computer."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_origin(url: str) -> Origin:
    """Scheme, host and port of a URL.

    Raises:
        TransferError: If it has none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TransferError(f"{url!r} is not a web address.") from error
    if not parts.hostname or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise TransferError(f"{url!r} is not a web address; characters other than ASCII must be encoded.")
    return parts.scheme, parts.hostname, port or _PORTS.get(parts.scheme, 0)


def _read_url(text: str, *, may_be_insecure: bool) -> Address:
    origin, parts = read_origin(text), urlsplit(text)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise TransferError(
            f"the address of {parts.hostname} has a password or what follows '?' or '#', which is not supported. "
            "Give the address of the bundle's directory."
        )
    path = parts.path.removesuffix(MANIFEST_NAME).strip("/")
    on_hub = _PAGE.fullmatch(path)
    if origin == read_origin(hub_endpoint()) and on_hub is not None and is_repository(on_hub[1]):
        revision = unquote(on_hub[2] or on_hub[3] or "main")
        return read_address(f"{on_hub[1]}@{revision}", may_be_insecure=may_be_insecure)
    base = f"{parts.scheme}://{parts.netloc}/{path}/" if path else f"{parts.scheme}://{parts.netloc}/"
    last = path.rpartition("/")[2] or parts.hostname or ""
    address = Address(text, base, _plain_name(last), may_be_insecure=may_be_insecure)
    address.check_url(base)
    return address


def _on_hub(repository: str, revision: str, *, may_be_insecure: bool) -> Address:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise TransferError(
            f"{repository} is on the hub, and HF_HUB_OFFLINE is set, so it is not contacted. Unset the variable."
        )
    endpoint, shown = hub_endpoint(), repository if revision == "main" else f"{repository}@{revision}"
    address = Address(
        shown,
        _resolve(endpoint, repository, revision),
        _plain_name(repository.rpartition("/")[2]),
        repository,
        hub_token(),
        may_be_insecure,
    )
    address.check_url(address.base)
    return address


def _resolve(endpoint: str, repository: str, revision: str) -> str:
    return f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/"


def _plain_name(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:100].removesuffix(".partial") or "llava"
