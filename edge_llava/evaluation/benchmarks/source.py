"""Where a benchmark's questions come from: files of the user's, how they are read, and which part of them is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from edge_llava.errors import DataError

Collection = Literal["coco", "wild"]


@dataclass(frozen=True)
class ReadOptions:
    """How data are read that can be asked in several ways; None is as usual.

    Attributes:
        form: ScienceQA: one of `scienceqa_problem.FORMATS`, usually "letter".
        split: ScienceQA: one of pid_splits.json, usually "test".
        circular: MMBench: make the rotations that the file does not contain.
        collection: LLaVA-Bench: which one a directory is; usually known by its files.
    """

    form: str | None = None
    split: str | None = None
    circular: bool = False
    collection: Collection | None = None

    @property
    def given(self) -> set[str]:
        """Names of the options that are not as usual."""
        return {field.name for field in fields(self) if getattr(self, field.name)}


@dataclass(frozen=True)
class Source:
    """What a benchmark, or a part of one, can be read from again.

    Attributes:
        name: Of the benchmark.
        paths: Its files or its directory.
        options: How they are read.
        n_sample, seed: See `sampling.sample`; None: all questions.
        left_out: `Item.key` of questions that were left out.
    """

    name: str
    paths: tuple[Path, ...]
    options: ReadOptions = ReadOptions()
    n_sample: int | None = None
    seed: int = 0
    left_out: frozenset[str] = frozenset()

    def moved(self, paths: tuple[Path, ...]) -> Source:
        """The same from other places."""
        return replace(self, paths=paths)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; paths are absolute."""
        return {
            "benchmark": self.name,
            "paths": [str(path.absolute()) for path in self.paths],
            "options": asdict(self.options),
            "sample": self.n_sample,
            "seed": self.seed,
            "left_out": sorted(self.left_out),
        }

    @classmethod
    def from_dict(cls, values: Any, where: Path) -> Source:
        """Reads what `to_dict` wrote.

        Raises:
            DataError: If it is something else.
        """
        try:
            options: Mapping[str, Any] = values["options"]
            return cls(
                str(values["benchmark"]),
                tuple(Path(path) for path in values["paths"]),
                ReadOptions(options["form"], options["split"], bool(options["circular"]), options["collection"]),
                values["sample"] if values["sample"] is None else int(values["sample"]),
                int(values["seed"]),
                frozenset(map(str, values["left_out"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} does not say which questions were asked.") from error
