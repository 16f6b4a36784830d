"""What was looked at, whether it is as it should be, and with which figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it held, a sentence, and its figures by name."""

    name: str
    ok: bool
    detail: str
    figures: Mapping[str, float | int]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, **self.figures}


@dataclass(frozen=True)
class VerifyReport:
    """Every check that was made, in order."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks held."""
        return all(check.ok for check in self.checks)
