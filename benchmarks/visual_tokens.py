"""Measures what fewer visual tokens cost a bundle on drawn scenes: its answers, and the fidelity of the remaining rows.

    python benchmarks/visual_tokens.py BUNDLE --tokens 32 16 --seed 1 --n 1000

Each number is measured as `--visual-tokens` does it and, for comparison, with evenly spaced patches: the middle one of
each of n stretches of the sequence. Fidelity: for every row of an image's whole embedding, the largest cosine to a
remaining row; the mean over rows, then over images. It is printed for all patches, and for those of which an object
covers at least half.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edge_llava
from edge_llava.evaluation.bundle_answerer import BundleAnswerer
from edge_llava.evaluation.exam import set_exam
from edge_llava.evaluation.scene_scores import evaluate_scenes
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.scenes.drawing import draw_map, encode_scene
from edge_llava.scenes.scene import Scene

_PIXELS = 8  # per side of a patch, to see what covers it


class EvenlySpaced:
    """Stands in for a model, with every image's patches thinned out evenly."""

    def __init__(self, whole: edge_llava.LlavaModel, reduced: edge_llava.LlavaModel, n_tokens: int) -> None:
        """
        Args:
            whole: The model that computes all rows.
            reduced: The model that answers from fewer.
            n_tokens: Number of rows to keep.
        """
        self._whole, self._n_tokens = whole, n_tokens
        self.session = reduced.session

    def embed_image(self, source: bytes) -> ImageEmbedding:
        """Embeds an image and keeps the middle row of each of n stretches."""
        whole = self._whole.embed_image(source)
        places = ((np.arange(self._n_tokens) + 0.5) * whole.n_tokens / self._n_tokens).astype(int)
        return dataclasses.replace(whole, data=whole.data[places])


def open_bundle(path: Path, n_tokens: int | None) -> edge_llava.LlavaModel:
    """Opens a bundle on one thread, which is fastest for the demo."""
    decoder = edge_llava.DecoderOptions(n_threads=1)
    return edge_llava.load(path, edge_llava.EngineOptions(decoder, n_vision_threads=1, visual_tokens=n_tokens))


def find_objects(scene: Scene, grid: int) -> NDArray[np.bool_]:
    """Marks the patches (P,) of which an object covers at least half."""
    seen = draw_map(scene, grid * _PIXELS) >= 0
    return seen.reshape(grid, _PIXELS, grid, _PIXELS).mean((1, 3)).reshape(-1) >= 0.5


def measure_fidelity(
    whole: edge_llava.LlavaModel, reduced: edge_llava.LlavaModel | EvenlySpaced, scenes: list[Scene]
) -> tuple[float, float]:
    """The fidelity over all patches, and over those with objects."""
    everywhere, on_objects = [], []
    for scene in scenes:
        file = encode_scene(scene)
        rows, left = (
            image.data / np.linalg.norm(image.data, axis=1, keepdims=True)
            for image in (whole.embed_image(file), reduced.embed_image(file))
        )
        cosines = (rows @ left.T).max(1)
        is_object = find_objects(scene, whole.manifest.vision.grid_side)
        everywhere.append(cosines.mean())
        on_objects += [cosines[is_object].mean()] if is_object.any() else []
    return float(np.mean(everywhere)), float(np.mean(on_objects))


def report_answers(name: str, model: edge_llava.LlavaModel | EvenlySpaced, seed: int, n: int) -> None:
    """Prints the shares of right answers, in percent."""
    figures = evaluate_scenes(BundleAnswerer(model), seed=seed, n=n).to_dict()  # type: ignore[arg-type]
    shares = {"overall": figures["overall"], "other image": figures["shuffled_overall"]}
    shares |= {kind: share["value"] for kind, share in figures["accuracy"].items()}
    shares |= {kind: figures["description"][kind] for kind in ("precision", "recall")}
    print(f"{name}: " + ", ".join(f"{kind} {100 * (share or 0):.1f}" for kind, share in shares.items()), flush=True)


def main() -> None:
    """Measures every number in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", required=True, metavar="N", help="numbers to try")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures and questions")
    parser.add_argument("--n", type=int, default=1000, help="number of pictures")
    arguments = parser.parse_args()
    scenes = [sheet.scene for sheet in set_exam(arguments.seed, arguments.n)]
    with open_bundle(arguments.bundle, None) as whole:
        report_answers("all tokens", whole, arguments.seed, arguments.n)
        for n_tokens in arguments.tokens:
            with open_bundle(arguments.bundle, n_tokens) as reduced:
                even = EvenlySpaced(whole, reduced, n_tokens)
                for name, model in ((f"{n_tokens} tokens", reduced), (f"{n_tokens} evenly spaced", even)):
                    report_answers(name, model, arguments.seed, arguments.n)
                    fidelity, on_objects = measure_fidelity(whole, model, scenes)
                    print(f"{name}: fidelity {fidelity:.4f}, on objects {on_objects:.4f}", flush=True)


if __name__ == "__main__":
    main()
