"""The memory for opening an image, measured in a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edge_llava.home.image_files.decoding_memory import decoding_bytes

SIZE = (2400, 2000)
SLACK_BYTES = 6 << 20  # buffers that do not grow with the image
MEASURE = """
import sys
from pathlib import Path
from edge_llava.home.image_files.opening import open_image

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024

small, large = sys.argv[1:]
open_image(small)  # libraries are loaded, threads are started
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
image = open_image(large)
print(memory("VmHWM") - before)
"""


def make(format_):
    grey = Image.linear_gradient("L").resize(SIZE)
    if format_ == "JPEG":  # four components, and all coefficients in memory
        return grey.convert("CMYK"), {"progressive": True}
    if format_ == "GIF":
        return grey.convert("RGB").quantize(64), {"transparency": 3}
    image = grey.convert("RGB")
    if format_ not in ("BMP", "PPM"):
        image.putalpha(grey)
    fast = {"WEBP": {"method": 0, "quality": 10}, "AVIF": {"speed": 10}, "TIFF": {"compression": "tiff_lzw"}}
    return image, fast.get(format_, {})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured as Linux counts it")
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "TGA"])
def test_the_peak_is_what_is_charged(format_, tmp_path):
    image, options = make(format_)
    large, small = tmp_path / "large", tmp_path / "small"
    image.save(large, format_, **options)
    image.crop((0, 0, 64, 48)).save(small, format_, **options)
    command = [sys.executable, "-c", MEASURE, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    charged = decoding_bytes(*SIZE, format_)
    assert charged / 4 < peak < charged + SLACK_BYTES


def test_an_unknown_format_is_charged_the_most():
    known = [decoding_bytes(10, 10, name) for name in ("JPEG", "PNG", "WEBP", "JPEG2000")]
    assert decoding_bytes(10, 10) == decoding_bytes(10, 10, "?") == max(known)
