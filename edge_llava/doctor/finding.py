"""A finding: one line about the device or the installation, and what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "hint", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok", "hint" (it works, and could be better) or "problem" (something does not work).
        topic: What it is about: "processor", "memory".
        text: What was found.
        advice: What to do next; "" where there is nothing to do.
    """

    level: Level
    topic: str
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
