"""What `edge-llava caption` says at its end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from edge_llava.cli.display import note
from edge_llava.cli.printable import printable_line

if TYPE_CHECKING:
    from edge_llava.captioning.report import CaptionReport

_MAX_FOLDERS = 3
_MAX_SHOWN = 20  # faults; --json has all of them


def print_report(report: CaptionReport) -> None:
    """Prints what a run did, for people."""
    parts = [f"{count(report.n_captioned, 'image')} captioned"]
    if report.n_duplicates:
        parts.append(count(report.n_duplicates, "duplicate"))
    if report.n_earlier:
        parts.append(f"{report.n_earlier:,} earlier")
    if report.n_captioned:
        parts.append(count(report.n_tokens, "token"))
    note(f"{', '.join(parts)}; {report.seconds:.0f} s.")
    if report.n_sidecars_kept:
        kept = count(report.n_sidecars_kept, "sidecar file")
        stayed = "was kept" if report.n_sidecars_kept == 1 else "were kept"
        note(f"{kept} with other text {stayed}; --force replaces such files.")
    if report.n_descriptions:
        note(f"{count(report.n_descriptions, 'description')} written.")
    if report.n_descriptions_kept:
        kept = count(report.n_descriptions_kept, "image")
        note(f"{kept} had a description, which was kept; --replace-descriptions replaces them.")
    if report.n_truncated:
        note(f"{count(report.n_truncated, 'image')} truncated: part of the image is missing.")
    if report.unsupported:
        from edge_llava.captioning.folder import describe_unsupported

        n_files = count(sum(report.unsupported.values()), "image file")
        note(f"{n_files} in unsupported formats: {describe_unsupported(report.unsupported)}")
    if report.n_links_out:
        note(f"{count(report.n_links_out, 'link')} to places outside the sources not followed.")
    if report.passed_over:
        shown = ", ".join(report.passed_over[:_MAX_FOLDERS]) + ", ..." * (len(report.passed_over) > _MAX_FOLDERS)
        note(f"{count(len(report.passed_over), 'system folder')} skipped: {printable_line(shown)}")
    _print_faults(report)


def _print_faults(report: CaptionReport) -> None:
    if report.faults:
        note(f"{count(len(report.faults), 'file')} could not be used:")
        for fault in report.faults[:_MAX_SHOWN]:
            note(f"  {printable_line(f'{fault.path}: {fault.reason}')}")
        if len(report.faults) > _MAX_SHOWN:
            note(f"  and {len(report.faults) - _MAX_SHOWN:,} more; --json has all of them.")


def count(n: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def describe_report(report: CaptionReport) -> dict[str, Any]:
    """What a run did, for programs."""
    return dataclasses.asdict(report) | {"out": str(report.out), "seconds": round(report.seconds, 3)}
