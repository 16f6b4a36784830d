"""What quantization costs the demo's answers, by what was measured before: nothing, texts, images and texts, a mix.

    python benchmarks/quantization_loss.py

Prints for each quantization the mean Kullback-Leibler divergence of the next token from the unquantized checkpoint,
over the texts after the images of held-out scenes, and how often the most likely token is the same. A mix takes no more
bytes than the quantization in its line.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import click
import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from edge_llava.conversion.convert import open_checkpoint
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue import Dialogue
from edge_llava.converters.dialogue_rows import DialogueRows, dialogue_rows
from edge_llava.converters.importance import measure_importance
from edge_llava.converters.language_gguf import plan_language
from edge_llava.converters.language_recipe import LanguageRecipe
from edge_llava.converters.quant_types import GgmlType, encoded_bytes
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.reference import reference_pixels
from edge_llava.converters.reference_language import run_blocks
from edge_llava.converters.reference_model import ReferenceModel
from edge_llava.converters.reference_tower import reference_features
from edge_llava.converters.sensitivity import measure_losses
from edge_llava.converters.template_choice import checkpoint_template
from edge_llava.converters.tensor_names import gguf_name
from edge_llava.converters.type_mix import choose_mix
from edge_llava.scenes.drawing import draw_scene
from edge_llava.scenes.scene import sample_scenes
from edge_llava.training.instructions.scene_teacher import teach

_QUANTS = ("Q4_K_M", "Q3_K_M", "Q2_K", "IQ2_M")
_Load = Callable[[str], torch.Tensor]


@click.command()
@click.option("--n", default=160, show_default=True, help="Held-out scenes.")
@click.option("--seed", default=77, show_default=True, help="Of the held-out scenes.")
def main(n: int, seed: int) -> None:
    """Measure what quantization costs the demo."""
    checkpoint, encoder = open_checkpoint("demo"), Encoder(2)
    model = ReferenceModel(checkpoint)
    seen, texts = _read(checkpoint, "train", 11, 64), _read(checkpoint, "train", 11, 64, with_images=False)
    held_out = _read(checkpoint, "held-out", seed, n)
    by_text = LanguageRecipe(measure_importance(checkpoint, texts))
    importance, losses = measure_losses(checkpoint, seen, encoder)
    by_image = LanguageRecipe(importance)
    exact = _log_probabilities(checkpoint, model, model.load, held_out)

    def measure(quant: str, recipe: LanguageRecipe) -> str:
        found = _log_probabilities(checkpoint, model, _quantized(checkpoint, model, quant, recipe, encoder), held_out)
        pairs = list(zip(exact, found, strict=True))
        divergence = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in pairs]).mean()
        same = torch.cat([(a.argmax(-1) == b.argmax(-1)).float() for a, b in pairs]).mean()
        return f"{divergence:.4f} {100 * same:5.1f} %"

    click.echo(f"{'':8}{'nothing':>18}{'texts':>18}{'images and texts':>18}{'mix':>18}")
    for quant in _QUANTS:
        plan = plan_language(checkpoint, quant, by_image)
        shapes = {tensor.name: tensor.shape for tensor in plan if tensor.name in losses}
        n_bytes = sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan if tensor.name in losses)
        mix = LanguageRecipe(importance, choose_mix(losses, shapes, n_bytes), losses)
        plain = "" if quant.startswith("IQ2") else measure(quant, LanguageRecipe())
        columns = [plain, measure(quant, by_text), measure(quant, by_image), measure(quant, mix)]
        click.echo(f"{quant:8}" + "".join(f"{text:>18}" for text in columns))
    encoder.close()


def _read(checkpoint: Checkpoint, split: str, seed: int, n: int, *, with_images: bool = True) -> list[DialogueRows]:
    scenes, random = list(itertools.islice(sample_scenes(split, seed), n)), np.random.default_rng(3)
    said = [
        tuple((turn.question, turn.answer) for turn in teach(scene, "conversation", random, (6, 10)))
        for scene in scenes
    ]
    template = checkpoint_template(checkpoint, None)
    if not with_images:
        return dialogue_rows(checkpoint, template, [Dialogue(None, turns) for turns in said], [])
    pixels = [reference_pixels(checkpoint, np.asarray(draw_scene(scene, 224)), "pad") for scene in scenes]
    dialogues = [Dialogue(index, turns) for index, turns in enumerate(said)]
    return dialogue_rows(checkpoint, template, dialogues, reference_features(checkpoint, pixels))


@torch.inference_mode()
def _log_probabilities(
    checkpoint: Checkpoint, model: ReferenceModel, load: _Load, sequences: Sequence[DialogueRows]
) -> list[torch.Tensor]:
    """Of each token (T, V), after the image of each sequence."""
    head, scale = load(model.head_name), load("language.norm.weight")
    hidden = run_blocks(model, load, [sequence.rows for sequence in sequences], "")
    found = []
    for rows, sequence in zip(hidden, sequences, strict=True):
        read = rows[sequence.image.stop :]
        normed = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + checkpoint.config.language.rms_eps) * scale
        found.append(torch.log_softmax(normed @ head.T, -1))
    return found


def _quantized(
    checkpoint: Checkpoint, model: ReferenceModel, quant: str, recipe: LanguageRecipe, encoder: Encoder
) -> _Load:
    """Loads weights as they are once they were quantized."""
    types: Mapping[str, GgmlType] = {tensor.name: tensor.type for tensor in plan_language(checkpoint, quant, recipe)}
    columns: Mapping[str, NDArray[np.float32]] = {} if recipe.importance is None else recipe.importance.mean_squares

    def load(name: str) -> torch.Tensor:
        weight, target = model.load(name), gguf_name(name)
        if weight.ndim == 1:
            return weight
        encoded = encoder.encode(target, np.ascontiguousarray(weight.numpy()), types[target], columns.get(target))
        decoded = gguf.dequantize(encoded.reshape(len(weight), -1), types[target])
        return torch.from_numpy(decoded.astype(np.float32).reshape(weight.shape))

    return load


if __name__ == "__main__":
    main()
