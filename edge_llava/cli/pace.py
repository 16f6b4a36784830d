"""How fast this device is, as far as `edge-llava tune` measured it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_llava.bundle.manifest import Manifest
    from edge_llava.device.profile import Profile


@dataclass(frozen=True)
class Pace:
    """Seconds that parts of the work take here; None where they are not known.

    Attributes:
        tile_s: A square of an image, until its rows are there.
        position_s: A position of a prompt.
    """

    tile_s: float | None = None
    position_s: float | None = None


def pace_of(profile: Profile, manifest: Manifest) -> Pace:
    """What was measured for a bundle."""
    from edge_llava.device.profile import IMAGE_SIZE
    from edge_llava.runtime.vision.anyres import count_tiles

    names = ("vision_s", "projector_s", "prefill_tps")
    vision_s, projector_s, prefill_tps = (profile.measured.get(name) for name in names)
    tile_s = None
    if vision_s is not None and projector_s is not None:
        tile_s = (vision_s + projector_s) / count_tiles(IMAGE_SIZE, manifest.vision)
    return Pace(tile_s, 1 / prefill_tps if prefill_tps else None)


def measured_pace(manifest: Manifest, *, tuned: bool) -> Pace:
    """What was measured for a bundle on this device, if that may be used (`tuned`)."""
    from edge_llava.device.profile import find_profile

    profile = find_profile(manifest) if tuned else None
    return Pace() if profile is None else pace_of(profile, manifest)
