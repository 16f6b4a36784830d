"""What images that are cut into tiles take: said before the work, which may last minutes, and drawn while it lasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge_llava.cli.display import format_wait, note, show_progress
from edge_llava.cli.pace import pace_of

if TYPE_CHECKING:
    from edge_llava.bundle.manifest import Manifest
    from edge_llava.bundle.vision_spec import VisionSpec
    from edge_llava.device.profile import Profile
    from edge_llava.runtime.dialogue.messages import ImageInput
    from edge_llava.runtime.vision.tower import Tower

_SUGGESTED = 5  # tiles: as many as LLaVA-1.6 has at most, the whole image among them


def note_tiles(images: Iterable[tuple[str, ImageInput]], manifest: Manifest, form: VisionSpec, *, tuned: bool) -> None:
    """Prints a line for every image that is encoded as several tiles.

    Args:
        images: With their names; embeddings cost nothing any more.
        manifest: Of the bundle.
        form: How the images are shown.
        tuned: Whether what `edge-llava tune` measured may be used, to estimate the time.
    """
    from edge_llava.device.profile import find_profile
    from edge_llava.runtime.vision.image import Image

    profile = find_profile(manifest) if tuned else None
    for name, image in images:
        if isinstance(image, Image) and (text := describe_tiles(image.size, manifest, form, profile)):
            note(f"{name}: {text}")


def describe_tiles(size: tuple[int, int], manifest: Manifest, form: VisionSpec, profile: Profile | None) -> str:
    """What an image of (width, height) takes, and what it would with fewer tiles; "" if it makes only one."""
    from dataclasses import replace

    from edge_llava.runtime.vision.anyres import count_tiles, count_tokens, tile_limits

    n_tiles, n_positions = count_tiles(size, form), count_tokens(size, form)
    if n_tiles == 1:
        return ""
    time = ""
    if profile is not None and (seconds := _estimate(n_tiles, n_positions, manifest, profile)) is not None:
        time = f", about {format_wait(seconds)} here"
    limits, advice = tile_limits(size, form), ""
    if limits:
        limit = max((n for n in limits if n <= _SUGGESTED), default=limits[0])
        advice = f"; --max-tiles {limit}: {count_tokens(size, replace(form, max_tiles=limit)):,} positions"
    return f"{n_tiles} tiles, {n_positions:,} positions{time}{advice}"


def note_most_tiles(form: VisionSpec) -> None:
    """Prints what an image may take at most, whatever its size, where images are cut into tiles."""
    text = describe_range(form)
    if form.aspect == "anyres":
        note(f"Each image takes {text}; --max-tiles N limits them.")


def describe_range(form: VisionSpec) -> str:
    """How many positions images take, and how many tiles, at most."""
    from edge_llava.bundle.vision_spec import count_squares
    from edge_llava.runtime.vision.anyres import count_range

    least, most = count_range(form)
    if form.aspect != "anyres":
        return f"{most} image tokens"
    n_tiles = max(count_squares(canvas, form.image_size) for canvas in form.canvases)
    limit = "" if form.max_tiles is None else f" (limited to {form.max_tiles})"
    return f"{least:,} to {most:,} image tokens in up to {n_tiles} tiles{limit}"


@contextmanager
def show_tiles(tower: Tower, images: Sequence[ImageInput], n_images: int) -> Iterator[None]:
    """Draws how many tiles are done, until the block ends.

    Args:
        tower: Encodes the images.
        images: Of one question.
        n_images: Images of its conversation.
    """
    from edge_llava.runtime.vision.anyres import count_tiles
    from edge_llava.runtime.vision.image import Image

    form, before = tower.forms.choose(n_images), tower.progress
    if all(not isinstance(image, Image) or count_tiles(image.size, form) == 1 for image in images):
        yield
        return
    with show_progress() as tower.progress:
        try:
            yield
        finally:
            tower.progress = before


def count_all_tiles(tower: Tower, images: Sequence[ImageInput], n_images: int) -> int:
    """How many squares the tower makes of the images of a question, in a conversation of `n_images`."""
    from edge_llava.runtime.vision.anyres import count_tiles
    from edge_llava.runtime.vision.image import Image

    form = tower.forms.choose(n_images)
    return sum(count_tiles(image.size, form) for image in images if isinstance(image, Image))


def _estimate(n_tiles: int, n_positions: int, manifest: Manifest, profile: Profile) -> float | None:
    """Seconds for an image and its positions, from what was measured on this device; None if that is not known."""
    pace = pace_of(profile, manifest)
    if pace.tile_s is None or pace.position_s is None:
        return None
    return pace.tile_s * n_tiles + pace.position_s * n_positions
