"""Counts the values in a JSON body while it arrives, before it is parsed and without parsing it.

A JSON parser holds the GIL until it ends, and turns each `[],` into some hundred bytes. What makes an honest request
large are the strings of its images, which are few values.
"""

from __future__ import annotations


class JsonValueCounter:
    """Counts the commas and opening brackets outside of strings: each is followed by one value at most.

    Attributes:
        n_values: The number of values so far.
    """

    def __init__(self) -> None:
        self.n_values = 0
        self._is_in_string = False
        self._rest = b""  # a backslash whose character has not arrived yet

    def add(self, part: bytes) -> int:
        """Counts the next bytes of the body.

        Returns:
            The number of values in them.
        """
        # without what is escaped, every quote begins or ends a string
        part = (self._rest + part).replace(rb"\\", b"").replace(rb"\"", b"")
        self._rest = b"\\" if part.endswith(b"\\") else b""
        pieces = part.split(b'"')
        outside = b"".join(pieces[self._is_in_string :: 2])
        self._is_in_string ^= len(pieces) % 2 == 0
        n_values = sum(map(outside.count, (b",", b"[", b"{")))
        self.n_values += n_values
        return n_values
