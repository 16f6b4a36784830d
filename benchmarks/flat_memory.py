"""Measures the memory of one process that is asked about many different images, of several sizes.

    python benchmarks/flat_memory.py BUNDLE IMAGE --images 500

Prints the resident size during the run, and at the end how much its median over the last tenth of the run exceeds that
over the second tenth (the first tenth fills the caches). Fails if that is more than 3 %. Linux only.
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
from edge_llava.home.image_files.opening import open_image
from edge_llava.measuring.benchmark import mark_image
from edge_llava.runtime.model import LlavaModel

_N_SIZES = 7
_FLAT = 1.03


def rss_bytes() -> int:
    """The current resident size of this process."""
    size = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert size is not None
    return int(size[1]) * 1024


def vary(image: Image.Image, number: int) -> Image.Image:
    """Makes a different image for every number, in one of several sizes and shapes."""
    size = round(image.width * (1 - 0.05 * (number % _N_SIZES))), image.height
    return mark_image(image.resize(size), number)


def measure(given: argparse.Namespace) -> float:
    """Asks about every image in a new conversation. Returns the growth factor; 1 is none."""
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=given.tokens)
    source, sizes = open_image(given.image), []
    with LlavaModel(Bundle.open(given.bundle), engine_options(given.bundle, shlex.split(given.options))) as model:
        for number in range(given.images):
            for _ in model.session(options).ask("Describe the picture.", image=vary(source, number)):
                pass
            sizes.append(rss_bytes())
            if (number + 1) % max(1, given.images // 10) == 0:
                print(f"{number + 1} images: {sizes[-1] / 1e6:.1f} MB", flush=True)
    tenth = len(sizes) // 10
    return statistics.median(sizes[-tenth:]) / statistics.median(sizes[tenth : 2 * tenth])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--images", type=int, default=500, help="at least 20")
    parser.add_argument("--tokens", type=int, default=4, help="per answer")
    parser.add_argument("--options", default="", help="of `edge-llava chat`")
    growth = measure(parser.parse_args())
    print(f"from the second tenth to the last: {100 * (growth - 1):+.2f} %")
    if growth > _FLAT:
        sys.exit("memory grows")
