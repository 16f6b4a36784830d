"""The memory that a running bundle takes, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 5_000_000  # bytes, less is rounded to nothing
MAIN = ""  # main memory, among the names of devices


@dataclass(frozen=True)
class Part:
    """Memory for one purpose, in one place.

    Attributes:
        name: "weights", "KV cache".
        n_bytes: Its size.
        device: The GPU that it is on, as llama.cpp calls it; `MAIN`: main memory.
        is_mapped: Whether it lies in a file that is mapped: where memory is short, the system drops it and reads it
            again, which is slow.
    """

    name: str
    n_bytes: int
    device: str = MAIN
    is_mapped: bool = False


@dataclass(frozen=True)
class MemoryNeeds:
    """What a running bundle takes.

    Attributes:
        parts: In the order in which they are shown.
    """

    parts: tuple[Part, ...]

    @property
    def n_bytes(self) -> int:
        """Of main memory."""
        return _total(part for part in self.parts if part.device == MAIN)

    @property
    def kept_bytes(self) -> int:
        """Of main memory, without what the system can drop."""
        return _total(part for part in self.parts if part.device == MAIN and not part.is_mapped)

    @property
    def devices(self) -> tuple[str, ...]:
        """The GPUs that it takes memory of."""
        return tuple(dict.fromkeys(part.device for part in self.parts if part.device != MAIN))

    def on_device(self, name: str) -> int:
        """Bytes on a GPU."""
        return _total(part for part in self.parts if part.device == name)

    def describe(self, device: str = MAIN) -> str:
        """Its parts on a device, the largest first: "weights 0.64, KV cache 0.09", in GB."""
        parts = sorted((part for part in self.parts if part.device == device), key=lambda part: -part.n_bytes)
        shown = [f"{part.name} {part.n_bytes / 1e9:.2f}" for part in parts if part.n_bytes >= _SHOWN]
        return ", ".join(shown)


def _total(parts: Iterable[Part]) -> int:
    return sum(part.n_bytes for part in parts)
