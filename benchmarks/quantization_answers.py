"""What quantization costs the demo's answers: each quantization beside F16, question by question.

    python benchmarks/quantization_answers.py

Converts the demo once for each quantization and tower, asks every bundle about the same held-out scenes, greedily, and
prints right answers with a 95 % interval, what was lost and gained against F16 with a tower in float32, McNemar's exact
p, the size of the bundle, and how long the exam took on one thread. "Size of Q2_K" is a mix of types that takes no more
bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from edge_llava.bundle.bundle import Bundle
from edge_llava.conversion.convert import convert
from edge_llava.converters.options import ConvertOptions
from edge_llava.evaluation.bundle_answerer import BundleAnswerer
from edge_llava.evaluation.comparison import Comparison
from edge_llava.evaluation.exam import set_exam
from edge_llava.evaluation.share import Share
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.scenes.questions import normalize_answer

_QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
_MAX_TOKENS = 32
_Marks = Mapping[tuple[int, str], bool]


@click.command()
@click.option("--n", default=1000, show_default=True, help="Held-out scenes.")
@click.option("--seed", default=1, show_default=True, help="Of the scenes.")
def main(n: int, seed: int) -> None:
    """Measure what quantization costs the demo's answers."""
    options = {f"{quant}, fp32": ConvertOptions(quant=quant, vision="fp32") for quant in _QUANTS}
    options |= {f"{quant}, int8": ConvertOptions(quant=quant, vision="int8") for quant in ("F16", "Q4_K_M")}
    truth: _Marks | None = None
    click.echo("| weights, tower | right | 95 % | lost | gained | p | bundle | exam |")
    click.echo("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for number, (label, chosen) in enumerate(options.items()):
            bundle = convert("demo", Path(name) / f"{number}", chosen)
            truth = _report(label, bundle, truth, n, seed)
            if chosen.quant == "Q2_K":
                sized = replace(chosen, quant="MIXED", size_bytes=bundle.n_bytes + _spare(bundle))
                _report("size of Q2_K, fp32", convert("demo", Path(name) / "mix", sized), truth, n, seed)


def _spare(bundle: Bundle) -> int:
    """What `--size` keeps free for small files, beyond what this bundle's take."""
    small = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.suffix in (".json", ".safetensors"))
    return max(0, 400_000 - small)


def _report(label: str, bundle: Bundle, truth: _Marks | None, n: int, seed: int) -> _Marks:
    started = time.perf_counter()
    marks = _examine(bundle, n, seed)
    seconds = time.perf_counter() - started
    share = Share(sum(marks.values()), len(marks))
    low, high = share.interval
    compared = "| | | |"
    if truth is not None:
        lost, gained = (
            sum(truth[key] == was and right != was for key, right in marks.items()) for was in (True, False)
        )
        compared = f"| {lost} | {gained} | {Comparison(len(marks), lost, gained).p_value:.2g} |"
    interval = f"{100 * low:.2f} to {100 * high:.2f} %"
    click.echo(
        f"| {label} | {100 * (share.value or 0):.2f} % | {interval} {compared} {bundle.n_bytes / 1e6:.1f} MB "
        f"| {seconds:.0f} s |"
    )
    return marks if truth is None else truth


def _examine(bundle: Bundle, n: int, seed: int) -> _Marks:
    """Whether each question about each picture is answered exactly, by picture and kind of question."""
    marks = {}
    with LlavaModel(bundle, EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1)) as model:
        look = BundleAnswerer(model)
        for sheet in set_exam(seed, n):
            ask = look(sheet.scene)
            for question in sheet.questions:
                said = normalize_answer(ask(question.text, _MAX_TOKENS))
                marks[sheet.picture, question.kind] = said == normalize_answer(question.answer)
    return marks


if __name__ == "__main__":
    main()
