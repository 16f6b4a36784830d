"""A tree of small files that the system shows its facts in: /proc, /sys and /etc, or a test's copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 1 << 20  # /proc/cpuinfo of 256 CPUs has 0.4 MB


@dataclass(frozen=True)
class Tree:
    """Files below a root; what is missing, unreadable or no number is no error.

    Attributes:
        root: "/" of the system.
    """

    root: Path = Path("/")

    def text(self, place: str) -> str:
        """Text of a file without surrounding white space and zeros; "" where it cannot be read."""
        try:
            with (self.root / place).open("rb") as file:
                return file.read(_MAX_BYTES).decode("utf-8", "replace").strip("\0 \t\r\n")
        except (OSError, ValueError):  # a file of /sys may refuse to be read
            return ""

    def number(self, place: str, base: int = 10) -> int | None:
        """The number in a file; None where it holds none."""
        try:
            return int(self.text(place), base)
        except ValueError:
            return None

    def places(self, pattern: str) -> Iterator[str]:
        """Places that match a pattern such as "sys/class/thermal/thermal_zone*", sorted."""
        yield from (path.relative_to(self.root).as_posix() for path in sorted(self.root.glob(pattern)))
