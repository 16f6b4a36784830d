"""A small LLaVA trained on drawn scenes, as checkpoint and as bundle, and images that were not in its training data."""

from __future__ import annotations

from pathlib import Path

NAME = "demo"  # for commands: of the bundle, and of the checkpoint to convert
CHECKPOINT = Path(__file__).parent / "llava-scenes"
BUNDLE = Path(__file__).parent / "bundles" / NAME  # made from CHECKPOINT by `make demo-bundle`
PICTURES = Path(__file__).parent / "pictures"
NOTICE = "This demo knows drawn shapes only. Its own images: demo:1 to demo:4."
_PREFIX = f"{NAME}:"


def find_image(name: str) -> Path | None:
    """The file of an image of the demo, "demo:1" for the first; None where there is no such image."""
    number = name.removeprefix(_PREFIX)
    path = PICTURES / f"shapes-{number}.jpg"
    return path if name.startswith(_PREFIX) and number.isdecimal() and path.is_file() else None
