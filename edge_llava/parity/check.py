"""The results of a verification: what was checked, whether it passed, and the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, a sentence about it, and its figures by name."""

    name: str
    ok: bool
    detail: str
    figures: Mapping[str, float | int]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report for `--json`."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, **self.figures}


@dataclass(frozen=True)
class VerifyReport:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.ok for check in self.checks)
