"""What is compared is compared within a round, and the table and the chart show it."""

from __future__ import annotations

import pytest
from PIL import Image
from report import draw_chart, make_table
from samples import Sample, Samples, append


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.jsonl"
    append(path, [{"all": {"cpu": "a CPU", "n_ctx": None}, "peer": {"version": "1.0"}}])
    for number, (ours, theirs, few) in enumerate([(1.0, 2.0, 0.5), (2.0, 8.0, 0.5), (9.0, 12.0, 3.0)]):
        append(
            path,
            [
                Sample(f"a/{number}", "peer", "cold_first_s", theirs),
                Sample(f"a/{number}", "edge-llava", "cold_first_s", ours),
                Sample(f"a/{number}", "edge-llava", "known_first_s", ours / 4),
                Sample(f"a/{number}", "edge-llava, few", "cold_first_s", few),
            ],
        )
    append(path, [Sample("b/0", "peer", "cold_first_s", 100.0), Sample("b/0", "peer", "cold_peak_bytes", 1.5e9)])
    append(path, [Sample("a/0", "edge-llava", "vision_s", 0.25), Sample("b/0", "edge-llava", "prompt_tokens", 600)])
    return Samples.read(path)


def test_ratios_are_of_pairs_of_one_round(samples):
    ratio = samples.ratio(("edge-llava", "cold_first_s"), ("peer", "cold_first_s"))
    assert (ratio.median, ratio.min, ratio.max) == (0.5, 0.25, 0.75)
    assert samples.ratio(("edge-llava", "cold_first_s"), ("peer", "cold_peak_bytes")) is None


def test_table(samples):
    assert make_table(samples) == (
        "| what | who | median (range) | n | edge-llava: ratio | edge-llava, few: ratio |\n"
        "|---|---|---|---|---|---|\n"
        "| new process, new image: first token | edge-llava | 2 s (1 to 9) | 3 |  | 0.333 (0.25 to 0.5) |\n"
        "|  | edge-llava, few | 0.5 s (0.5 to 3) | 3 | 3 (2 to 4) |  |\n"
        "|  | peer | 10 s (2 to 100) | 4 | 0.5 (0.25 to 0.75) | 0.25 (0.0625 to 0.25) |\n"
        "| new process, image asked about before: first token | edge-llava | 0.5 s (0.25 to 2.25) | 3 "
        "| 0.25 (0.25 to 0.25) |  |\n"
        "| peak memory, new process | peer | 1.5 GB | 1 |  |  |\n"
        "\n"
        "| loaded, new image | edge-llava |\n"
        "|---|---|\n"
        "| vision tower | 0.25 s |\n"
        "| positions of the prompt | 600 |\n"
        "\n"
        "- all: cpu a CPU\n"
        "- peer: version 1.0\n"
    )


def test_chart_is_a_png(samples, tmp_path):
    draw_chart(samples, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.format == "PNG"
        assert chart.width == 12 * 120
        colours = {colour for _, colour in chart.convert("RGB").getcolors(1 << 24)}
    assert {(31, 119, 180), (127, 127, 127)} <= colours  # ours and theirs
