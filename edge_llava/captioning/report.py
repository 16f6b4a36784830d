"""What a run of captioning did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_llava.captioning.folder import Fault


@dataclass(frozen=True)
class CaptionReport:
    """What a run did.

    Attributes:
        out: The output.
        n_pictures: Pictures in the folder.
        n_captioned: Asked about in this run.
        n_duplicates: Given the answer of a picture with the same bytes in this run.
        n_earlier: Had their line before this run.
        n_tokens: Tokens of this run's answers.
        n_sidecars, n_sidecars_kept: Files written beside pictures; files that were there with another text.
        seconds: Time that the run took so far.
        faults: Files and directories that could not be used, and why.
        unsupported: Numbers of image files of kinds that are not read, by suffix.
        n_truncated: Images of which a part is missing, among those that were asked about.
        n_links_out: Links that lead out of what was named; they were not followed.
        passed_over: Directories that systems keep for themselves, such as @eaDir.
    """

    out: Path
    n_pictures: int
    n_captioned: int
    n_duplicates: int
    n_earlier: int
    n_tokens: int
    n_sidecars: int
    n_sidecars_kept: int
    seconds: float
    faults: tuple[Fault, ...]
    unsupported: dict[str, int]
    n_truncated: int
    n_links_out: int
    passed_over: tuple[str, ...]
