"""One GET at a time, with what a network does to it: redirects, refusals, cut connections.

The token goes to the origin of the bundle's address alone; a redirect to a storage server loses it.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from importlib.metadata import version
from typing import IO, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from edge_llava.errors import TransferError
from edge_llava.hub.address import Address, is_loopback, read_origin

_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 60.0
_READ_BYTES = 1 << 18
_NO_SERVER = (socket.gaierror, ConnectionRefusedError)  # at the first contact, waiting does not help
_log = logging.getLogger("edge_llava.hub")
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        timeout_s: Without a byte from it.
        n_tries: In a row, without anything that was new.
        wait_s: Before the second try; doubles from try to try.
        small_s: For all of a small file.
    """

    timeout_s: float = 30.0
    n_tries: int = 6
    wait_s: float = 1.0
    small_s: float = 60.0


USUAL = Patience()


class Interrupted(OSError):
    """A try failed for a reason that may pass; `wait_s` is what the server asked for, or None."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class NotFound(TransferError):
    """The server has no such file."""


class Web:
    """GETs the files of one address."""

    def __init__(self, address: Address, patience: Patience, warn: Callable[[str], None] = _log.warning) -> None:
        """
        Args:
            address: Of a bundle.
            patience: Limits.
            warn: Called with a message when something is tried again.
        """
        self.address = address
        self.patience = patience
        self._warn = warn
        _, host, _ = read_origin(address.base)
        proxies = [ProxyHandler({})] if is_loopback(host) else []
        self._opener = build_opener(_Redirects(address), *proxies)
        self._opener.addheaders = [("User-Agent", f"edge-llava/{version('edge-llava')}")]

    def open(self, url: str, first_byte: int = 0) -> HTTPResponse:
        """Sends one GET; the response must be closed.

        Args:
            url: Of a file.
            first_byte: Ask for the rest of the file from here on; the server may send all of it.

        Raises:
            NotFound: If there is no such file.
            TransferError: If the server refuses, and will again.
            Interrupted: If it may work later.
        """
        request = _request(self.address, url, {"Range": f"bytes={first_byte}-"} if first_byte else {})
        try:
            response: HTTPResponse = self._opener.open(request, timeout=self.patience.timeout_s)
        except HTTPError as error:
            error.close()
            raise self._refusal(url, error) from error
        except URLError as error:
            if isinstance(error.reason, ssl.SSLError) and not isinstance(error.reason, _CUT):
                raise self._no_tls(error.reason) from error
            raise self._failure(error.reason) from (error.reason if isinstance(error.reason, OSError) else error)
        except (OSError, HTTPException) as error:
            raise self._failure(error) from error
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            response.close()
            raise TransferError(f"{url} was sent compressed ({encoding[:20]}), which was not asked for.")
        return response

    def read(self, response: HTTPResponse, n_bytes: int) -> bytes:
        """Reads at most so much of a response; nothing is left at b"".

        Raises:
            Interrupted: If the connection breaks, or nothing arrives for too long.
        """
        try:
            return response.read1(min(n_bytes, _READ_BYTES))
        except (OSError, HTTPException) as error:
            raise self._failure(error) from error

    def read_small(self, path: str, max_bytes: int) -> tuple[bytes, str | None]:
        """Fetches a small file of the bundle.

        Args:
            path: In the bundle.
            max_bytes: A larger one is refused.

        Returns:
            Its bytes, and the commit that a hub names with them.

        Raises:
            TransferError: As `open`, or if it is too large or takes too long.
        """
        return self.repeat(lambda: self._read_small(path, max_bytes), lambda: 0, hopeless=_NO_SERVER)

    def exists(self, path: str) -> bool:
        """Whether the server has a file; False, too, where it does not tell."""
        try:
            self.open(self.address.url(path)).close()
        except (TransferError, Interrupted):
            return False
        return True

    def repeat(
        self, run: Callable[[], _T], progress: Callable[[], int], hopeless: tuple[type[OSError], ...] = ()
    ) -> _T:
        """Calls `run` until it succeeds, with longer and longer waits; the count begins anew after progress.

        Args:
            run: May raise Interrupted.
            progress: A number that grows when something new arrived.
            hopeless: What is not tried again.

        Raises:
            TransferError: If it failed too often.
        """
        n_failed, before = 0, progress()
        while True:
            try:
                return run()
            except Interrupted as error:
                if progress() > before:
                    n_failed, before = 0, progress()
                n_failed += 1
                if n_failed >= self.patience.n_tries or isinstance(error.__cause__, hopeless):
                    raise self._gave_up(error, may_resume=not hopeless) from error
                asked_s = max(error.wait_s or 0.0, self.patience.wait_s * 2 ** (n_failed - 1))
                wait_s = min(asked_s, _LONGEST_WAIT_S)
                self._warn(f"{self.address.shown}: {error}. Trying again in {wait_s:g} s.")
                time.sleep(wait_s)

    def _read_small(self, path: str, max_bytes: int) -> tuple[bytes, str | None]:
        data, until = bytearray(), time.monotonic() + self.patience.small_s
        with self.open(self.address.url(path)) as response:
            while chunk := self.read(response, max_bytes + 1 - len(data)):
                data += chunk
                if len(data) > max_bytes:
                    raise TransferError(f"{self.address.url(path)} has more than {max_bytes:,} bytes, the limit.")
                if time.monotonic() > until:
                    raise TransferError(f"{self.address.url(path)} takes more than {self.patience.small_s:g} s.")
            stated = response.headers.get("Content-Length")
            if stated is not None and stated.isdecimal() and len(data) < int(stated):
                raise Interrupted("the connection was closed early")
            return bytes(data), response.headers.get("X-Repo-Commit")

    def _refusal(self, url: str, error: HTTPError) -> Interrupted | TransferError:
        shown, status = self.address.shown, error.code
        if status in _TRANSIENT:
            asked = error.headers.get("Retry-After", "")
            return Interrupted(f"the server answers with status {status}", float(asked) if asked.isdecimal() else None)
        if status in (404, 410):
            return NotFound(f"{url} does not exist (status {status}).")
        if status in (401, 403) and self.address.repository is not None:
            has_token = "your token does not give access" if self.address.token else "you have no token"
            return TransferError(
                f"the hub refuses {shown} (status {status}). Check the name. If the repository is private, or asks "
                f"you to accept its licence, log in on its page, and set HF_TOKEN: {has_token}."
            )
        if status in (401, 403):
            return TransferError(f"{url} is not accessible without a login (status {status}).")
        return TransferError(f"{url} cannot be fetched: the server answers with status {status}.")

    def _no_tls(self, reason: ssl.SSLError) -> TransferError:
        _, host, _ = read_origin(self.address.base)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return TransferError(
                f"the certificate of {host} cannot be verified: {reason.verify_message}. If your network has a "
                "certificate of its own, name its file in the variable SSL_CERT_FILE."
            )
        return TransferError(f"{host} does not answer in https ({reason.reason}). Check the address and its port.")

    def _failure(self, reason: object) -> Interrupted:
        if isinstance(reason, TimeoutError):
            return Interrupted(f"nothing arrived within {self.patience.timeout_s:g} s")
        if isinstance(reason, http.client.IncompleteRead):
            return Interrupted("the connection was closed early")
        return Interrupted(_describe(reason))

    def _gave_up(self, error: Interrupted, *, may_resume: bool) -> TransferError:
        _, host, _ = read_origin(self.address.base)
        resuming = ", and run the same command again: what has arrived is kept" if may_resume else " and the address"
        return TransferError(
            f"{self.address.shown} cannot be fetched from {host}: {error}. Check the network{resuming}."
        )


class _Redirects(HTTPRedirectHandler):
    """Follows a few redirects, to addresses that are allowed; the token does not leave its origin."""

    max_redirections = 5

    def __init__(self, address: Address) -> None:
        self._address = address

    def http_error_302(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse | None:
        """Closes the response first, so that nothing of its body, which may be endless, is read."""
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        """The request for the next address."""
        target = urljoin(req.full_url, newurl)
        self._address.check_url(target)
        return _request(self._address, target, {k: v for k, v in req.header_items() if k == "Range"})


def _request(address: Address, url: str, headers: dict[str, str]) -> Request:
    request = Request(url, headers={"Accept-Encoding": "identity", **headers})
    if address.may_get_token(url):
        request.add_unredirected_header("Authorization", f"Bearer {address.token}")
    return request


def _describe(reason: object) -> str:
    if isinstance(reason, socket.gaierror):
        return "its name cannot be found, or there is no network"
    if isinstance(reason, OSError) and reason.strerror:
        return re.sub(r"\s+", " ", reason.strerror)
    return re.sub(r"\s+", " ", str(reason))[:200] or type(reason).__name__
