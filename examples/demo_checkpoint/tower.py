"""Trains the demo's CLIP to match regions with phrases and places, and pictures with captions.

A picture's patches are compared with all region phrases: the object's phrase at the patch that contains the centre of
its box, "part of" it where it covers a good share of a patch, and the background elsewhere. The picture is compared
with the captions of its batch. Each patch also predicts the middle of its object; otherwise the content would crowd
out the place, and relations such as "left of" could not be learned. The region losses train the patches of the
penultimate block, which are what LLaVA reads.

Source: CLIP (Radford et al., 2021); region-phrase alignment and localization as in GLIP (Li et al., 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from demo_checkpoint.renderings import render
from demo_checkpoint.vocabulary import DemoTokenizer
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.scenes.drawing import draw_map
from edge_llava.scenes.scene import COLOURS, SHAPES, SIZES, Scene
from edge_llava.scenes.sentences import captions
from edge_llava.training.trainer import Job, Schedule, run

IMAGE_SIZE = 112
PATCH_SIZE = 14
WIDTH = 256
_GRID = IMAGE_SIZE // PATCH_SIZE
_MAX_TEXT = 48
_MIN_COVER = 0.2  # share of a patch; below it the patch is background
_CAPTION_WEIGHT = 0.1
_PLACE_WEIGHT = 0.2
_N_PLACES = 16  # number of columns, and of rows, for the middles
_SCHEDULE = Schedule(1e-3, batch_size=64, weight_decay=0.05, beta2=0.98, warmup_ratio=0.05, save_every=250, seed=11)

_OBJECTS = tuple(f"{size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES)
PHRASES = (*(f"a {o}" for o in _OBJECTS), *(f"part of a {o}" for o in _OBJECTS), "the background")
_BACKGROUND = len(PHRASES) - 1
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def train_tower(
    scenes: Sequence[Scene], n_epochs: int, tokenizer: DemoTokenizer, work: Path, progress: ProgressCallback = silent
) -> CLIPModel:
    """Trains a CLIP from scratch on scenes.

    Args:
        scenes: Training scenes.
        n_epochs: Passes over the scenes.
        tokenizer: Tokenizer of the text tower.
        work: Folder for renderings and saved steps, from which training resumes.
        progress: Called after every step.

    Returns:
        The model, float32; its text tower is no longer needed.
    """
    torch.manual_seed(_SCHEDULE.seed)
    module = RegionClip(tokenizer)
    samples = _Pictures(scenes, render(scenes, IMAGE_SIZE, work / "pixels.npy", progress), n_epochs)
    run(Job("vision tower", module, samples, _Collator(tokenizer), work / "steps"), _SCHEDULE, progress)
    return module.clip


def region_labels(scene: Scene) -> np.ndarray:
    """Labels every patch with its content and place.

    Returns:
        int64 (P, 3), row by row: the index in PHRASES; column and row of the middle of the object, or of the patch
        itself if it shows the background, in sixteenths of the side.
    """
    blocks = draw_map(scene, IMAGE_SIZE).reshape(_GRID, PATCH_SIZE, _GRID, PATCH_SIZE).swapaxes(1, 2)
    seen = blocks.reshape(_GRID * _GRID, PATCH_SIZE * PATCH_SIZE)
    patches = np.arange(_GRID * _GRID)
    middles = [(position + 0.5) / _GRID for position in (patches % _GRID, patches // _GRID)]
    labels = np.stack([np.full(len(patches), _BACKGROUND), *((m * _N_PLACES).astype(int) for m in middles)], axis=1)
    for index, thing in enumerate(scene.objects):
        where = int(thing.x * _N_PLACES), int(thing.y * _N_PLACES)
        covered = (seen == index).mean(axis=1) >= _MIN_COVER
        labels[covered] = len(_OBJECTS) + _OBJECTS.index(thing.phrase), *where
    for thing in scene.objects:
        where = int(thing.x * _N_PLACES), int(thing.y * _N_PLACES)
        labels[int(thing.y * _GRID) * _GRID + int(thing.x * _GRID)] = _OBJECTS.index(thing.phrase), *where
    return labels


class RegionClip(torch.nn.Module):
    """CLIP with a head that compares its patches with phrases."""

    phrases: torch.Tensor
    weights: torch.Tensor

    def __init__(self, tokenizer: DemoTokenizer) -> None:
        super().__init__()
        self.clip = CLIPModel(
            CLIPConfig(
                vision_config={
                    "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 6,
                    "num_attention_heads": 4, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE,
                },
                text_config={
                    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "max_position_embeddings": _MAX_TEXT, "vocab_size": len(tokenizer) + 2,
                    "eos_token_id": len(tokenizer), "pad_token_id": len(tokenizer) + 1,
                },
                projection_dim=128,
            )
        )  # fmt: skip
        self.region_norm = torch.nn.LayerNorm(WIDTH)
        self.region_projection = torch.nn.Linear(WIDTH, 128)
        self.places = torch.nn.Linear(WIDTH, 2 * _N_PLACES)
        self.region_scale = torch.nn.Parameter(torch.tensor(3.0))
        self.register_buffer("phrases", _encode_texts(tokenizer, PHRASES), persistent=False)
        # most patches are background, and few are centres
        weights = torch.ones(len(PHRASES))
        weights[: len(_OBJECTS)], weights[_BACKGROUND] = 2.0, 0.2
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, pixels: torch.Tensor, regions: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses for pictures uint8 (B, S, S, 3), `region_labels` (B, P, 3) and caption ids (B, T)."""
        logits, places, pooled = self.compare(pixels)
        region_loss = F.cross_entropy(logits.flatten(0, 1).float(), regions[..., 0].flatten(), self.weights)
        axes = places.float().reshape(-1, _N_PLACES)
        place_loss = F.cross_entropy(axes, regions[..., 1:].flatten())
        image = F.normalize(self.clip.visual_projection(pooled), dim=-1)
        text = F.normalize(self.clip.get_text_features(texts), dim=-1)
        similarity = self.clip.logit_scale.exp().clamp(max=100) * (image @ text.T).float()
        same = torch.arange(len(texts), device=texts.device)
        caption_loss = (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2
        return {"loss": region_loss + _PLACE_WEIGHT * place_loss + _CAPTION_WEIGHT * caption_loss}

    def compare(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Similarity of every patch to every phrase (B, P, len(PHRASES)); log-odds of its column, then row
        (B, P, 2 * 16); the pooled pictures (B, D)."""
        output = self.clip.vision_model(_normalize(pixels), output_hidden_states=True)
        normed = self.region_norm(output.hidden_states[-2][:, 1:])
        patches = self.region_projection(normed)
        phrases = F.normalize(self.clip.get_text_features(self.phrases), dim=-1)
        scale = self.region_scale.exp().clamp(max=100)
        return scale * (F.normalize(patches, dim=-1) @ phrases.T), self.places(normed), output.pooler_output


class _Pictures(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray, str]]):
    """Pixels, region labels and one caption of each scene, in a different order in every epoch."""

    def __init__(self, scenes: Sequence[Scene], pixels: np.ndarray, n_epochs: int) -> None:
        self._scenes, self._pixels = scenes, pixels
        self._labels = np.stack([region_labels(scene) for scene in scenes])
        orders = np.random.default_rng(_SCHEDULE.seed)
        self._order = np.concatenate([orders.permutation(len(scenes)) for _ in range(n_epochs)])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        place = self._order[index]
        caption = captions(self._scenes[place])[(index // len(self._scenes)) % 5]
        return self._pixels[place], self._labels[place], caption


class _Collator:
    def __init__(self, tokenizer: DemoTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, samples: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> dict[str, torch.Tensor]:
        pixels, regions, texts = zip(*samples, strict=True)
        return {
            "pixels": torch.from_numpy(np.stack(pixels)),
            "regions": torch.from_numpy(np.stack(regions)),
            "texts": _encode_texts(self._tokenizer, texts),
        }


def _normalize(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values, device=pixels.device) for values in (_CLIP_MEAN, _CLIP_STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def _encode_texts(tokenizer: DemoTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Token ids (n, T). The id after the vocabulary ends each text, and the one after that pads it."""
    end, filling = len(tokenizer), len(tokenizer) + 1
    rows = [[*tokenizer.encode(text)[: _MAX_TEXT - 1], end] for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [filling] * (longest - len(row)) for row in rows])
