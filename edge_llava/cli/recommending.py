"""The table of published checkpoints, with what fits this device, for `edge-llava models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_llava.cli.display import note, show
from edge_llava.cli.printable import printable_line

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle

_VERDICTS = {"fits": "yes", "slow": "slow", "too much": "no"}


def recommend() -> None:
    """Shows the table."""
    facts = recommendation_facts()
    free = facts["free_bytes"]
    note("")
    note("Checkpoints that `edge-llava convert` reads; sizes in GB, of a Q4_K_M bundle" + _of_free(free))
    show("fetch  disk memory fits licence    checkpoint")
    for row in facts["checkpoints"]:
        sizes = f"{row['download_bytes'] / 1e9:>5.1f}{row['bundle_bytes'] / 1e9:>6.1f}{row['memory_bytes'] / 1e9:>7.1f}"
        verdict = "?" if free is None else _VERDICTS[row["verdict"]]
        show(printable_line(f"{sizes} {verdict:<4} {row['license'] or '-':<10} {row['checkpoint']}"))
    note("The licence is what its card states; -: see its page. Less memory: edge-llava fit CHECKPOINT")


def recommendation_facts() -> dict[str, Any]:
    """What the table shows, and the bytes of memory that are free; None where the system does not tell."""
    from edge_llava.fitting.needs import MAIN
    from edge_llava.fitting.published import PUBLISHED, QUANT
    from edge_llava.fitting.room import read_room

    room, rows = read_room(), []
    free = room.free_of(MAIN)
    for each in PUBLISHED:
        needs = each.needs()
        rows.append(
            {
                "checkpoint": each.repository,
                "license": each.license,
                "quant": QUANT,
                "download_bytes": each.download_bytes,
                "bundle_bytes": each.plan().n_bytes,
                "memory_bytes": needs.n_bytes,
                "verdict": None if free is None else room.judge(needs),
            }
        )
    return {"free_bytes": free, "checkpoints": rows}


def tuned_seconds(bundle: Bundle) -> float | None:
    """Seconds of a typical question about an image, as `edge-llava tune` measured them here; None: it did not."""
    from edge_llava.device.profile import find_profile
    from edge_llava.home.directories import home_directory

    if not (home_directory() / "profiles").is_dir():
        return None  # to look at the device takes time
    profile = find_profile(bundle.manifest)
    return None if profile is None else profile.measured.get("turn_s")


def _of_free(free: int | None) -> str:
    return ":" if free is None else f"; {free / 1e9:.1f} are free:"
