"""Turns the figures of `compare.py` into a Markdown table and a chart.

python benchmarks/report.py samples.jsonl --table table.md --chart chart.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from samples import OURS, Samples

from edge_llava.measuring.spread import Spread

# name: (description, unit, base of the ratio if it is not the same figure of a peer)
FIGURES = {
    "cold_first_s": ("new process, new image: first token", "s", None),
    "cold_total_s": ("new process, new image: whole answer", "s", None),
    "cold_cpu_s": ("new process, new image: processor time of the answer", "s", None),
    "known_first_s": ("new process, image asked about before: first token", "s", "cold_first_s"),
    "loaded_first_s": ("loaded, new image: first token", "s", None),
    "loaded_total_s": ("loaded, new image: whole answer", "s", None),
    "loaded_cpu_s": ("loaded, new image: processor time of the answer", "s", None),
    "second_first_s": ("loaded, second question: first token", "s", None),
    "decode_tps": ("decode after the image", "tokens/s", None),
    "cold_peak_bytes": ("peak memory, new process", "GB", None),
    "loaded_peak_bytes": ("peak memory, loaded", "GB", None),
}
# parts of loaded_first_s, for peers that report them
STAGES = {
    "vision_s": "vision tower",
    "projector_s": "projector",
    "prefill_s": "prefill",
    "prefill_tokens": "positions computed",
    "prompt_tokens": "positions of the prompt",
}
_PANELS = ("cold_first_s", "loaded_first_s", "second_first_s", "loaded_total_s", "decode_tps", "cold_peak_bytes")
_COLOURS = {True: "tab:blue", False: "tab:gray"}


def make_table(samples: Samples) -> str:
    """The comparison, the stages if they are known, and the versions and settings."""
    parts = ["\n".join(_comparison(samples))]
    if any(samples.names(what) for what in STAGES):
        parts.append("\n".join(_stages(samples)))
    parts.append("\n".join(_facts(samples)))
    return "\n\n".join(parts) + "\n"


def draw_chart(samples: Samples, path: Path) -> None:
    """Draws medians as bars, with their range, as a PNG; edge-llava in blue."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [what for what in _PANELS if samples.names(what)]
    n_rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(12, 2.6 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, what in enumerate(panels):
        words, unit, _ = FIGURES[what]
        names = samples.names(what)[::-1]  # the first one on top
        spreads = [_scale(samples.spread(name, what), unit) for name in names]
        axes = figure.add_subplot(n_rows, 2, index + 1)
        medians = [spread.median for spread in spreads]
        reach = [
            [spread.median - spread.min for spread in spreads],
            [spread.max - spread.median for spread in spreads],
        ]
        colours = [_COLOURS[name.startswith(OURS)] for name in names]
        axes.barh(names, medians, xerr=reach, color=colours, height=0.7, error_kw={"elinewidth": 0.8, "capsize": 2})
        for place, spread in enumerate(spreads):
            axes.annotate(
                f"{spread.median:.3g}", (spread.max, place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.margins(x=0.12)
        better = "more" if what.endswith("_tps") else "less"
        axes.set_title(f"{words}, {unit} ({better} is better)", fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _comparison(samples: Samples) -> Iterator[str]:
    ours = list(dict.fromkeys(name for what in FIGURES for name in samples.names(what) if name.startswith(OURS)))
    yield "| what | who | median (range) | n | " + " | ".join(f"{name}: ratio" for name in ours) + " |"
    yield "|---" * (4 + len(ours)) + "|"
    for what, (words, unit, base) in FIGURES.items():
        for name in samples.names(what):
            spread = _format(samples.spread(name, what), unit)
            cells = [words, name, spread, str(samples.count(name, what))]
            cells += [_ratio(samples, own, name, what, base) for own in ours]
            yield f"| {' | '.join(cells)} |"
            words = ""


def _ratio(samples: Samples, own: str, name: str, what: str, base: str | None) -> str:
    if base is not None:
        ratio = samples.ratio((own, what), (own, base)) if own == name else None
    else:
        ratio = samples.ratio((own, what), (name, what)) if own != name else None
    return "" if ratio is None else f"{ratio.median:.3g} ({ratio.min:.3g} to {ratio.max:.3g})"


def _stages(samples: Samples) -> Iterator[str]:
    names = list(dict.fromkeys(name for what in STAGES for name in samples.names(what)))
    yield "| loaded, new image | " + " | ".join(names) + " |"
    yield "|---" * (1 + len(names)) + "|"
    for what, words in STAGES.items():
        if not samples.names(what):
            continue
        unit = "s" if what.endswith("_s") else ""
        cells = [
            _format(samples.spread(name, what), unit).strip() if samples.count(name, what) else "" for name in names
        ]
        yield f"| {words} | {' | '.join(cells)} |"


def _facts(samples: Samples) -> Iterator[str]:
    """Versions and settings, each once."""
    lines = dict.fromkeys(
        f"- {name}: " + ", ".join(f"{key} {value}" for key, value in facts.items() if value not in (None, ""))
        for run in samples.runs
        for name, facts in run.items()
    )
    yield from lines


def _scale(spread: Spread, unit: str) -> Spread:
    factor = 1e-9 if unit == "GB" else 1.0
    return Spread(spread.median * factor, spread.min * factor, spread.max * factor)


def _format(spread: Spread, unit: str) -> str:
    scaled = _scale(spread, unit)
    if scaled.min == scaled.max:
        return f"{scaled.median:.4g} {unit}"
    return f"{scaled.median:.3g} {unit} ({scaled.min:.3g} to {scaled.max:.3g})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--table", type=Path, help="default: printed")
    parser.add_argument("--chart", type=Path, help="PNG; needs matplotlib, which the [train] extra brings")
    given = parser.parse_args()
    read = Samples.read(given.samples)
    if given.table:
        given.table.write_text(make_table(read), encoding="utf-8")
    else:
        print(make_table(read), end="")
    if given.chart:
        draw_chart(read, given.chart)
