"""What quantization costs the answers of a small LLaVA: weights, tower and visual tokens, question by question.

    python benchmarks/quantization_answers.py --plot docs/images/quantization.svg
    python benchmarks/quantization_answers.py CHECKPOINT --plot other.svg

Converts the demo, or another checkpoint that was trained on drawn scenes, once for each quantization and tower, asks
every bundle about the same held-out scenes, greedily, and prints right answers with a 95 % interval, what was lost and
gained against F16 with a tower in float32 and all visual tokens, McNemar's exact p, the size of the bundle, and the
processor's time for a hundred questions on one thread. "Size of Q2_K" is a mix of types that takes no more bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from edge_llava.bundle.bundle import Bundle
from edge_llava.conversion.convert import convert
from edge_llava.converters.options import ConvertOptions
from edge_llava.errors import ConversionError
from edge_llava.evaluation.bundle_answerer import BundleAnswerer
from edge_llava.evaluation.comparison import Comparison
from edge_llava.evaluation.exam import set_exam
from edge_llava.evaluation.share import Share
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.scenes.questions import normalize_answer

_QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
_SIZED = "size of Q2_K"
_MAX_TOKENS = 32
_Marks = Mapping[tuple[int, str], bool]


@dataclass(frozen=True)
class Row:
    """One bundle, asked with so many visual tokens.

    Attributes:
        quant, tower: Of the bundle.
        n_tokens: Of an image; None: all.
        marks: Whether each question about each picture is answered exactly, by picture and kind of question.
        n_bytes: Of the bundle.
        seconds: The processor's, for all questions.
    """

    quant: str
    tower: str
    n_tokens: int | None
    marks: _Marks
    n_bytes: int
    seconds: float

    @property
    def share(self) -> Share:
        """Of the answers that are right."""
        return Share(sum(self.marks.values()), len(self.marks))


@click.command()
@click.argument("checkpoint", default="demo")
@click.option("--n", default=500, show_default=True, help="Held-out scenes.")
@click.option("--seed", default=1, show_default=True, help="Of the scenes.")
@click.option("--tokens", default="64,32,16", show_default=True, help="Visual tokens of an image; the first are all.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw accuracy by size (.svg, .png).")
def main(checkpoint: str, n: int, seed: int, tokens: str, plot: Path | None) -> None:
    """Measure what quantization costs a small LLaVA's answers."""
    fewer: list[int | None] = [None, *(int(number) for number in tokens.split(",")[1:])]
    rows: list[Row] = []
    click.echo("| weights | tower | visual tokens | right | 95 % | lost | gained | p | bundle | s per 100 questions |")
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for quant, tower, bundle in _bundles(checkpoint, Path(name)):
            for n_tokens in fewer:
                started = time.process_time()
                marks = _examine(bundle, n, seed, n_tokens)
                rows.append(Row(quant, tower, n_tokens, marks, bundle.n_bytes, time.process_time() - started))
                click.echo(_format(rows[-1], rows[0], tokens.split(",", maxsplit=1)[0]))
    if plot is not None:
        _draw(rows, plot)


def _bundles(checkpoint: str, directory: Path) -> Iterator[tuple[str, str, Bundle]]:
    for tower in ("fp32", "int8"):
        for quant in _QUANTS:
            options = ConvertOptions(quant=quant, vision=tower)
            bundle = convert(checkpoint, directory / f"{quant}-{tower}", options)
            yield quant, tower, bundle
            if quant == "Q2_K":
                sized = replace(options, quant="MIXED", size_bytes=bundle.n_bytes + _spare(bundle))
                try:
                    yield _SIZED, tower, convert(checkpoint, directory / f"mix-{tower}", sized)
                except ConversionError as error:  # large vocabularies: a mix leaves embeddings and head more bits
                    click.echo(f"{_SIZED}, {tower}: {error}", err=True)


def _spare(bundle: Bundle) -> int:
    """What `--size` keeps free for small files, beyond what this bundle's take."""
    small = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.suffix in (".json", ".safetensors"))
    return max(0, 400_000 - small)


def _format(row: Row, truth: Row, n_all: str) -> str:
    low, high = row.share.interval
    compared = "| | | |"
    if row is not truth:
        pairs = [(truth.marks[key], right) for key, right in row.marks.items()]
        counted = Comparison.of(*map(list, zip(*pairs, strict=True)))
        compared = f"| {counted.lost} | {counted.gained} | {counted.p_value:.2g} |"
    right = f"{100 * (row.share.value or 0):.2f} % | {100 * low:.2f} to {100 * high:.2f} %"
    speed = f"{100 * row.seconds / len(row.marks):.2f}"
    label = f"{row.quant} | {row.tower} | {row.n_tokens or n_all}"
    return f"| {label} | {right} {compared} {row.n_bytes / 1e6:.1f} MB | {speed} |"


def _examine(bundle: Bundle, n: int, seed: int, n_tokens: int | None) -> _Marks:
    marks = {}
    options = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1, visual_tokens=n_tokens)
    with LlavaModel(bundle, options) as model:
        look = BundleAnswerer(model)
        for sheet in set_exam(seed, n):
            ask = look(sheet.scene)
            for question in sheet.questions:
                said = normalize_answer(ask(question.text, _MAX_TOKENS))
                marks[sheet.picture, question.kind] = said == normalize_answer(question.answer)
    return marks


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Right answers with 95 % intervals: a place for each type of weights, with the sizes of both bundles."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "quantization"  # the same file for the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    quants = list(dict.fromkeys(row.quant for row in rows))
    kinds = list(dict.fromkeys((row.n_tokens, row.tower) for row in rows))
    colours = {n_tokens: f"C{index}" for index, n_tokens in enumerate(dict.fromkeys(tokens for tokens, _ in kinds))}
    for n_tokens, tower in kinds:
        own = [row for row in rows if (row.n_tokens, row.tower) == (n_tokens, tower)]
        values = [100 * (row.share.value or 0) for row in own]
        edges = [row.share.interval for row in own]
        errors = [
            [value - 100 * low for value, (low, _) in zip(values, edges, strict=True)],
            [100 * high - value for value, (_, high) in zip(values, edges, strict=True)],
        ]
        shift, marker = {"fp32": (-0.12, "o"), "int8": (0.12, "s")}[tower]
        places = [quants.index(row.quant) + shift for row in own]
        label = f"{'all' if n_tokens is None else n_tokens} visual tokens, {tower} tower"
        style = {"fmt": marker, "color": colours[n_tokens], "mfc": "none" if tower == "int8" else None, "ms": 5}
        axes.errorbar(places, values, errors, capsize=2, lw=1, label=label, **style)
    sizes = {
        quant: [f"{row.n_bytes / 1e6:.1f}" for row in rows if row.quant == quant and not row.n_tokens]
        for quant in quants
    }
    ticks = [f"{quant.replace(' of ', ' of' + chr(10))}\n{' / '.join(sizes[quant])} MB" for quant in quants]
    axes.set_xticks(range(len(quants)), ticks, fontsize=7)
    axes.set(ylabel="right answers, %")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=7, ncols=len(colours), loc="upper center", bbox_to_anchor=(0.5, 1.14))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
