"""Measured figures with their rounds, in a file of JSON lines to which several runs append."""

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
        round: The round of the measurement; only figures of the same round are compared.
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
        runs: The device, settings and versions of each run.
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
        """Names of all who have such figures, in order of appearance; edge-llava and its variants first."""
        names = dict.fromkeys(sample.who for sample in self.taken if sample.what == what)
        return sorted(names, key=lambda name: not name.startswith(OURS))

    def spread(self, who: str, what: str) -> Spread:
        """The median, smallest and largest of the figures."""
        return summarize([sample.value for sample in self.taken if (sample.who, sample.what) == (who, what)])

    def count(self, who: str, what: str) -> int:
        """The number of such figures."""
        return sum((sample.who, sample.what) == (who, what) for sample in self.taken)

    def ratio(self, ours: tuple[str, str], theirs: tuple[str, str]) -> Spread | None:
        """The spread of the ratios of pairs in the same round; None if no round has both.

        Args:
            ours, theirs: (who, what).
        """
        by_round: dict[str, dict[tuple[str, str], float]] = {}
        for sample in self.taken:
            by_round.setdefault(sample.round, {})[sample.who, sample.what] = sample.value
        ratios = [values[ours] / values[theirs] for values in by_round.values() if ours in values and theirs in values]
        return summarize(ratios) if ratios else None


def append(path: Path, records: Iterable[Sample | dict[str, Any]]) -> None:
    """Appends figures, or the facts of a run."""
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(f"{json.dumps(asdict(record) if isinstance(record, Sample) else {'run': record})}\n")
