"""One file of a bundle from a server: what has arrived stays, and the rest is asked for by a range of bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path

from edge_llava.errors import TransferError
from edge_llava.hub.web import Interrupted, Web

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Download:
    """A file that grows until it has its size. Its digest is for others to check."""

    def __init__(self, web: Web, name: str, path: Path, n_bytes: int, report: Callable[[int], None]) -> None:
        """
        Args:
            web: Of the bundle's address.
            name: Path of the file in the bundle.
            path: Where it grows; what is there is kept. Its directory must exist.
            n_bytes: Its size.
            report: Called with the bytes that are there.
        """
        self._web, self._url = web, web.address.url(name)
        self._name, self._path, self._n_bytes, self._report = name, path, n_bytes, report
        self._has_ranges = True
        self._furthest = 0

    def run(self) -> None:
        """Fetches what is missing.

        Raises:
            TransferError: If the server refuses, sends a file of another size, or fails too often.
            OSError: If the file cannot be written.
        """
        with self._path.open("ab") as file:
            if file.tell() > self._n_bytes:
                file.truncate(0)
        self._furthest = self._size()
        self._report(self._furthest)
        if self._furthest < self._n_bytes:
            self._web.repeat(self._try, lambda: self._furthest)

    def _try(self) -> None:
        start = self._size() if self._has_ranges else 0
        with self._web.open(self._url, start) as response:
            first = self._first_byte(response, start)
            if first not in (0, start):
                self._has_ranges = False  # another range than was asked for: fetch all of it
                raise Interrupted("the server sent another part of the file than was asked for", 0.0)
            self._check_length(response)
            self._receive(response, first)

    def _receive(self, response: HTTPResponse, first: int) -> None:
        """Writes what arrives behind the first bytes of the file; the others are dropped."""
        n_there = first
        with self._path.open("r+b") as file:
            file.truncate(first)
            file.seek(first)
            while n_there < self._n_bytes and (chunk := self._web.read(response, self._n_bytes - n_there)):
                file.write(chunk)
                n_there += len(chunk)
                self._furthest = max(self._furthest, n_there)
                self._report(n_there)
        if n_there < self._n_bytes:
            raise Interrupted("the connection was closed early")

    def _first_byte(self, response: HTTPResponse, start: int) -> int:
        """Where in the file the response begins; -1: the server does not say it, or it is not possible."""
        if response.status == 200:
            return 0
        found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if response.status != 206 or found is None:
            return -1
        if found[2] not in ("*", str(self._n_bytes)):
            raise self._wrong_size(found[2][:20])
        return int(found[1]) if int(found[1]) == start else -1

    def _check_length(self, response: HTTPResponse) -> None:
        stated = response.headers.get("Content-Length", "")
        if response.status == 200 and stated.isdecimal() and int(stated) != self._n_bytes:
            raise self._wrong_size(stated[:20])

    def _wrong_size(self, found: str) -> TransferError:
        return TransferError(
            f"{self._url} has {found} bytes, and the bundle's manifest says {self._n_bytes}. "
            "It is not the file of this bundle; tell its owner."
        )

    def _size(self) -> int:
        return self._path.stat().st_size
