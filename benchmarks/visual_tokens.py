"""What fewer visual tokens cost a bundle, on drawn scenes: its answers, and how near the rows left are to all of them.

    python benchmarks/visual_tokens.py BUNDLE --tokens 32 16 --seed 1 --n 1000

Each number is tried as `--visual-tokens` does it and, for comparison, with as many patches evenly spaced: the middle
one of each of n stretches of the sequence. Nearness: every row of a picture's whole embedding has a nearest one among
the rows that are left, by cosine; the mean of these cosines, over rows and then over pictures. It is given for all
patches, and for those alone that an object covers to a half or more.
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

_PIXELS = 8  # along a patch, to see what covers it


class EvenlySpaced:
    """What `BundleAnswerer` and the figures here ask of a model, with every picture's patches thinned out evenly."""

    def __init__(self, whole: edge_llava.LlavaModel, reduced: edge_llava.LlavaModel, n_tokens: int) -> None:
        """
        Args:
            whole: Gives all rows.
            reduced: Takes so many.
            n_tokens: How many.
        """
        self._whole, self._n_tokens = whole, n_tokens
        self.session = reduced.session

    def embed_image(self, picture: bytes) -> ImageEmbedding:
        """The middle row of each of n stretches."""
        image = self._whole.embed_image(picture)
        places = ((np.arange(self._n_tokens) + 0.5) * image.n_tokens / self._n_tokens).astype(int)
        return dataclasses.replace(image, data=image.data[places])


def open_bundle(path: Path, n_tokens: int | None) -> edge_llava.LlavaModel:
    """On one thread, which is quickest for the demo."""
    decoder = edge_llava.DecoderOptions(n_threads=1)
    return edge_llava.load(path, edge_llava.EngineOptions(decoder, n_vision_threads=1, visual_tokens=n_tokens))


def find_objects(scene: Scene, grid: int) -> NDArray[np.bool_]:
    """Which patches (P,) an object covers to a half or more."""
    seen = draw_map(scene, grid * _PIXELS) >= 0
    return seen.reshape(grid, _PIXELS, grid, _PIXELS).mean((1, 3)).reshape(-1) >= 0.5


def measure_nearness(
    whole: edge_llava.LlavaModel, reduced: edge_llava.LlavaModel | EvenlySpaced, scenes: list[Scene]
) -> tuple[float, float]:
    """Nearness over all patches, and over those with objects."""
    everywhere, on_objects = [], []
    for scene in scenes:
        picture = encode_scene(scene)
        rows, left = (
            image.data / np.linalg.norm(image.data, axis=1, keepdims=True)
            for image in (whole.embed_image(picture), reduced.embed_image(picture))
        )
        cosines = (rows @ left.T).max(1)
        is_object = find_objects(scene, whole.manifest.vision.grid_side)
        everywhere.append(cosines.mean())
        on_objects += [cosines[is_object].mean()] if is_object.any() else []
    return float(np.mean(everywhere)), float(np.mean(on_objects))


def report_answers(name: str, model: edge_llava.LlavaModel | EvenlySpaced, seed: int, n: int) -> None:
    """Prints the shares of right answers in percent."""
    figures = evaluate_scenes(BundleAnswerer(model), seed=seed, n=n).to_dict()  # type: ignore[arg-type]
    shares = {"overall": figures["overall"], "other picture": figures["shuffled_overall"]}
    shares |= {kind: share["value"] for kind, share in figures["accuracy"].items()}
    shares |= {kind: figures["description"][kind] for kind in ("precision", "recall")}
    print(f"{name}: " + ", ".join(f"{kind} {100 * (share or 0):.1f}" for kind, share in shares.items()), flush=True)


def main() -> None:
    """Every number in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", required=True, metavar="N", help="numbers to try")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures and questions")
    parser.add_argument("--n", type=int, default=1000, help="pictures")
    arguments = parser.parse_args()
    scenes = [sheet.scene for sheet in set_exam(arguments.seed, arguments.n)]
    with open_bundle(arguments.bundle, None) as whole:
        report_answers("all tokens", whole, arguments.seed, arguments.n)
        for n_tokens in arguments.tokens:
            with open_bundle(arguments.bundle, n_tokens) as reduced:
                even = EvenlySpaced(whole, reduced, n_tokens)
                for name, model in ((f"{n_tokens} tokens", reduced), (f"{n_tokens} evenly spaced", even)):
                    report_answers(name, model, arguments.seed, arguments.n)
                    nearness, on_objects = measure_nearness(whole, model, scenes)
                    print(f"{name}: nearness {nearness:.4f}, on objects {on_objects:.4f}", flush=True)


if __name__ == "__main__":
    main()
