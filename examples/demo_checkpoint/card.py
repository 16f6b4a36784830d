"""Writes the demo's model card: its architecture, training data, scores and limits.

In the folder examples: python -m demo_checkpoint.card CHECKPOINT F16.json Q4_K_M.json
Each JSON file is from `edge-llava eval scenes --json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from demo_checkpoint.recipe import Amounts
from edge_llava.scenes.questions import KINDS
from edge_llava.scenes.scene import COLOURS, MAX_OBJECTS, SHAPES, SIZES


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("f16", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("q4", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(checkpoint: Path, f16: Path, q4: Path) -> None:
    """Write the model card of CHECKPOINT from its scores."""
    scores = {path: json.loads(path.read_text(encoding="utf-8")) for path in (f16, q4)}
    (checkpoint / "README.md").write_text(write_card(scores[f16], scores[q4]), encoding="utf-8")


def write_card(f16: dict[str, Any], q4: dict[str, Any]) -> str:
    """Writes the card in Markdown.

    Args:
        f16: Scores of the F16 bundle, as `eval scenes --json` prints them.
        q4: Scores of the Q4_K_M bundle.
    """
    amounts = Amounts()
    exam = f"`edge-llava eval scenes --seed {f16['seed']} --n {f16['n']}`"
    overall = " | ".join(_percent(f16[name]) for name in ("shuffled_overall", "guessing_overall"))
    description = {name: _percent(f16["description"][name]) for name in ("precision", "recall")}
    return f"""---
license: apache-2.0
library_name: edge-llava
pipeline_tag: image-text-to-text
---

# llava-scenes

A LLaVA of 8 million weights that talks about drawn shapes: CLIP tower (6 blocks, width 256, 112 pixels, 64 patches), a
two-layer projector, LLaMA (6 blocks, width 256). It comes with edge-llava so that everything can be tried without a
download. It demonstrates the tools and is not a model for photographs.

## Training data

Drawn scenes of 1 to {MAX_OBJECTS} objects: {", ".join(SHAPES)};
{", ".join(COLOURS)}; {" or ".join(SIZES)}; rotated, on varied backgrounds, with uneven light, noise and
JPEG artefacts (`edge-llava data scenes`). No photograph, no text of people.

1. Vocabulary: SentencePiece BPE with byte fallback, 1,024 tokens, from text about scenes.
2. Tower: CLIP on {amounts.tower:,} scenes, {amounts.tower_epochs} epochs: regions with phrases and places, pictures
   with captions.
3. Language model: {amounts.language:,} conversations about scenes in words.
4. LLaVA stage 1: the projector on {amounts.pictures:,} other pictures with a caption each.
5. LLaVA stage 2: projector and language model on {amounts.conversations} conversations about each of these pictures,
   and for some a description, a question to think about, and a list of facts in shorthand; by rule, in the template
   llava_v1.

One seeded command makes it: `make demo-checkpoint`.

## Scores

{exam}: held-out scenes, greedy, exact match, 95 % intervals.
*Shuffled*: the same questions about another picture; a model that uses the image should drop to chance or below here.

| question | F16 | interval | shuffled | guessing | Q4_K_M |
|---|---|---|---|---|---|
{_rows(f16, q4)}
| **overall** | **{_percent(f16["overall"])}** | | {overall} | {_percent(q4["overall"])} |

Objects in detailed descriptions (F16): precision {description["precision"]}, recall {description["recall"]}.

## Limits

It knows the words above and the questions asked in training, in English. About anything else, photographs included, it
answers nonsense with confidence. Do not use it to decide anything.
"""


def _rows(f16: dict[str, Any], q4: dict[str, Any]) -> str:
    rows = []
    for kind in KINDS:
        marks = f16["accuracy"][kind]
        interval = f"{_percent(marks['low'])} to {_percent(marks['high'])}"
        others = f16["shuffled"][kind]["value"], f16["guessing"][kind], q4["accuracy"][kind]["value"]
        rows.append(f"| {kind} | {_percent(marks['value'])} | {interval} | {' | '.join(map(_percent, others))} |")
    return "\n".join(rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
