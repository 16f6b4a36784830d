"""The reference up to the language model: pixel values, tokens and image rows as transformers and the published code
compute them in float32, independent of the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from edge_llava.bundle.vision_spec import usable_canvases
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.expected_tensors import NEWLINE
from edge_llava.converters.image_processors import (
    CLIPImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    LlavaOnevisionImageProcessor,
    SiglipImageProcessor,
)
from edge_llava.converters.tokenizers.original_ids import original_ids

_PROCESSORS: Mapping[str, tuple[type[Any], dict[str, Any]]] = {
    "pad": (LlavaImageProcessor, {"do_pad": True}),
    "crop": (CLIPImageProcessor, {}),
    "squash": (SiglipImageProcessor, {}),
    "anyres": (LlavaNextImageProcessor, {}),
}


def reference_pixels(
    checkpoint: Checkpoint, image: NDArray[np.uint8], aspect: str, max_tiles: int | None = None
) -> NDArray[np.float32]:
    """Computes pixel values (T, 3, S, S) of an image uint8 (H, W, 3) by transformers' slow processors.

    Args:
        checkpoint: Provides size, normalization and canvases.
        image: RGB.
        aspect: "pad", "crop", "squash" or "anyres"; T is 1 except for "anyres".
        max_tiles: T at most, as in `ConvertOptions`.
    """
    config, size = checkpoint.config, checkpoint.tower.image_size
    make, options = _PROCESSORS[aspect]
    square = {"height": size, "width": size}
    sizes = {"size": square} if aspect == "squash" else {"size": {"shortest_edge": size}, "crop_size": square}
    if aspect == "anyres":
        canvases = usable_canvases(config.grid_pinpoints, size, max_tiles)
        options = {"image_grid_pinpoints": [[height, width] for width, height in canvases]}
        if config.merge_limit is not None:
            make, sizes = LlavaOnevisionImageProcessor, {"size": square}
    processor = make(
        **sizes,
        image_mean=list(config.image_mean),
        image_std=list(config.image_std),
        **options,
    )
    pixels: NDArray[np.float32] = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
    return pixels.reshape(-1, *pixels.shape[-3:])


def reference_ids(checkpoint: Checkpoint, texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes texts, each on its own and without BOS, as the checkpoint's own tokenizer does."""
    return original_ids(checkpoint.tokenizer, checkpoint.vocabulary, texts)


@torch.inference_mode()
def reference_rows(checkpoint: Checkpoint, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Computes the projector's rows (T, P, E) of patch features (T, P, D) by torch."""
    weight, bias, *second = (checkpoint.load(name).to(torch.float32) for name in checkpoint.projector_names())
    hidden = torch.nn.functional.linear(torch.from_numpy(features), weight, bias)
    if second:
        hidden = torch.nn.functional.linear(torch.nn.functional.gelu(hidden), *second)
    rows: NDArray[np.float32] = hidden.numpy()
    return rows


def reference_embedding(
    checkpoint: Checkpoint, rows: NDArray[np.float32], size: tuple[int, int], max_tiles: int | None = None
) -> NDArray[np.float32]:
    """Arranges an image's rows (T, P, E) as the language model reads them (N, E), as in the published code.

    Args:
        checkpoint: Its config decides the order.
        rows: Rows of the image, or of the whole image and its tiles.
        size: (width, height) of the image.
        max_tiles: As in `ConvertOptions`.

    Source: prepare_inputs_labels_for_multimodal of LLaVA and, for "anyres_max", of LLaVA-NeXT; unpad_image;
    transformers' rounding.
    """
    config, n_embd = checkpoint.config, rows.shape[-1]
    if config.merge == "flat":
        return rows.reshape(-1, n_embd)
    width, height = size
    usable = usable_canvases(config.grid_pinpoints, checkpoint.tower.image_size, max_tiles)
    canvases = [(canvas_height, canvas_width) for canvas_width, canvas_height in usable]
    n_down, n_across = (
        length // checkpoint.tower.image_size for length in select_best_resolution((height, width), canvases)
    )
    side = checkpoint.tower.grid_side
    image = torch.from_numpy(rows[1:]).view(n_down, n_across, side, side, n_embd)
    image = image.permute(4, 0, 2, 1, 3).contiguous().flatten(1, 2).flatten(2, 3)
    if "unpad" in config.merge:
        image = _unpad(image, width, height, rounded=config.merge.endswith("rounded"))
    if config.merge_limit is not None:
        n_rows, n_columns = image.shape[1:]
        times = math.sqrt(n_rows * n_columns / (config.merge_limit * side**2))
        if times > 1.1:
            wanted = [int(n_rows // times), int(n_columns // times)]
            image = torch.nn.functional.interpolate(image[None], wanted, mode="bilinear")[0]
    if config.has_newline:
        newline = checkpoint.load(NEWLINE).float()[:, None, None].expand(*image.shape[:-1], 1)
        image = torch.cat((image, newline), dim=-1)
    return torch.cat((torch.from_numpy(rows[0]), image.flatten(1, 2).transpose(0, 1))).numpy()


def _unpad(image: torch.Tensor, width: int, height: int, *, rounded: bool) -> torch.Tensor:
    current_height, current_width = image.shape[1:]
    if width / height > current_width / current_height:
        length = height * (current_width / width)
        border = (current_height - int(round(length, 7) if rounded else length)) // 2
        return image[:, border : current_height - border, :]
    length = width * (current_height / height)
    border = (current_width - int(round(length, 7) if rounded else length)) // 2
    return image[:, :, border : current_width - border]
