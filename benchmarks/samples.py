"""Figures that were taken, in the rounds in which they were taken: a file of JSON lines that several runs add to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_llava.measuring.spread import Spread, summarize

OURS = "edge-llava"


@dataclass(frozen=True)
class Sample:
    """One figure.

    Attributes:
        round: In which it was taken; what is compared was taken in the same one.
        who: "edge-llava", a variant of it, or a peer.
        what: A key of `report.FIGURES`.
        value: Seconds `_s`, tokens per second `_tps`, bytes `_bytes`, or a count.
    """

    round: str
    who: str
    what: str
    value: float


@dataclass
class Samples:
    """All figures of a file.

    Attributes:
        runs: Of each run what it ran on, settings and versions.
    """

    taken: list[Sample] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Reads what `append` wrote."""
        samples = cls()
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if "run" in record:
                samples.runs.append(record["run"])
            else:
                samples.taken.append(Sample(**record))
        return samples

    def names(self, what: str) -> list[str]:
        """Who has figures of that kind, in the order in which they came; edge-llava and its variants first."""
        names = dict.fromkeys(sample.who for sample in self.taken if sample.what == what)
        return sorted(names, key=lambda name: not name.startswith(OURS))

    def spread(self, who: str, what: str) -> Spread:
        """Median, smallest and largest."""
        return summarize([sample.value for sample in self.taken if (sample.who, sample.what) == (who, what)])

    def count(self, who: str, what: str) -> int:
        """How many figures there are."""
        return sum((sample.who, sample.what) == (who, what) for sample in self.taken)

    def ratio(self, ours: tuple[str, str], theirs: tuple[str, str]) -> Spread | None:
        """Median, smallest and largest of the ratios of pairs; None where no round has both.

        Args:
            ours, theirs: (who, what).
        """
        by_round: dict[str, dict[tuple[str, str], float]] = {}
        for sample in self.taken:
            by_round.setdefault(sample.round, {})[sample.who, sample.what] = sample.value
        ratios = [values[ours] / values[theirs] for values in by_round.values() if ours in values and theirs in values]
        return summarize(ratios) if ratios else None


def append(path: Path, records: Iterable[Sample | dict[str, Any]]) -> None:
    """Adds figures, or what a run ran on."""
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(f"{json.dumps(asdict(record) if isinstance(record, Sample) else {'run': record})}\n")
