"""The result of a captioning run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_llava.captioning.folder import FileFault


@dataclass(frozen=True)
class CaptionReport:
    """What a run did, in counts.

    Attributes:
        out: The output file.
        n_images: Images found.
        n_captioned: Images captioned in this run.
        n_duplicates: Images that got the answer of one with the same bytes in this run.
        n_earlier: Images that had a line before this run.
        n_tokens: Tokens in the answers of this run.
        n_sidecars, n_sidecars_kept: Sidecar files written; existing ones with other text that were kept.
        n_descriptions, n_descriptions_kept: Images and XMP sidecars that were given a description; those that keep
            their own.
        seconds: Duration of the run so far.
        faults: Files and directories that could not be used, and why.
        unsupported: Number of image files in unsupported formats, by suffix.
        n_truncated: Captioned images whose files end early.
        n_links_out: Links to places outside the sources; they were not followed.
        passed_over: System directories that were skipped, such as @eaDir.
    """

    out: Path
    n_images: int
    n_captioned: int
    n_duplicates: int
    n_earlier: int
    n_tokens: int
    n_sidecars: int
    n_sidecars_kept: int
    n_descriptions: int
    n_descriptions_kept: int
    seconds: float
    faults: tuple[FileFault, ...]
    unsupported: dict[str, int]
    n_truncated: int
    n_links_out: int
    passed_over: tuple[str, ...]
