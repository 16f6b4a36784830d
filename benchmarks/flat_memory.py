"""The memory of one process that is asked about many pictures, each another one, of several sizes.

    python benchmarks/flat_memory.py BUNDLE IMAGE --pictures 500

Prints the resident size as it goes, and at the end by how much its median over the last tenth is above that over the
second tenth (the first fills what is meant to be kept). Fails where that is more than 3 %. Linux.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import sys
from pathlib import Path

from chat_options import engine_options
from PIL import Image

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.measuring.benchmark import mark_picture
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.vision.images.opening import open_picture

_N_SIZES = 7
_FLAT = 1.03


def rss_bytes() -> int:
    """Resident size of this process now."""
    size = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert size is not None
    return int(size[1]) * 1024


def picture_of(picture: Image.Image, number: int) -> Image.Image:
    """Another picture for every number, in one of several sizes and shapes."""
    size = round(picture.width * (1 - 0.05 * (number % _N_SIZES))), picture.height
    return mark_picture(picture.resize(size), number)


def measure(given: argparse.Namespace) -> float:
    """Asks about every picture in a conversation of its own; returns the growth, 1 for none."""
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=given.tokens)
    picture, sizes = open_picture(given.image), []
    with LlavaModel(Bundle.open(given.bundle), engine_options(given.bundle, shlex.split(given.options))) as model:
        for number in range(given.pictures):
            for _ in model.session(options).ask("Describe the picture.", image=picture_of(picture, number)):
                pass
            sizes.append(rss_bytes())
            if (number + 1) % max(1, given.pictures // 10) == 0:
                print(f"{number + 1} pictures: {sizes[-1] / 1e6:.1f} MB", flush=True)
    tenth = len(sizes) // 10
    return statistics.median(sizes[-tenth:]) / statistics.median(sizes[tenth : 2 * tenth])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--pictures", type=int, default=500, help="at least 20")
    parser.add_argument("--tokens", type=int, default=4, help="of an answer")
    parser.add_argument("--options", default="", help="of `edge-llava chat`")
    growth = measure(parser.parse_args())
    print(f"from the second tenth to the last: {100 * (growth - 1):+.2f} %")
    if growth > _FLAT:
        sys.exit("memory grows")
