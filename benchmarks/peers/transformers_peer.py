"""transformers' LLaVA classes on the CPU, on a checkpoint that `hub_files.py` completed or `seeded_families.py` wrote.

    PYTHON -m peers.transformers_peer llava-1.1b-hf --threads 2 --dtype bfloat16 --llava-v1
    PYTHON -m peers.transformers_peer onevision-0.5b --threads 2 --dtype bfloat16 --max-tiles 5

Any environment with torch, transformers and Pillow will do, for example one with edge-llava's [convert] extra.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaOnevisionConfig
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from peers.protocol import SYSTEM, serve


class _FirstToken:
    """A streamer: generate() passes it the prompt, and then token after token."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._n_puts = 0
        self._on_first = on_first

    def put(self, value: Any) -> None:
        self._n_puts += 1
        if self._n_puts == 2:
            self._on_first()

    def end(self) -> None:
        """Nothing is held back."""


class _WithoutVideos(LlavaOnevisionProcessor):  # type: ignore[misc]
    """transformers' own also opens a processor for videos, which needs torchvision."""

    attributes = ("image_processor", "tokenizer")


class TransformersPeer:
    """Model, processor, and the conversation so far as messages; no KV cache is kept."""

    def __init__(self, checkpoint: Path, n_threads: int, dtype: str, system: str | None, max_tiles: int | None) -> None:
        """
        Args:
            checkpoint: Directory.
            n_threads: Threads of torch.
            dtype: Name of torch's.
            system: A system prompt, where the chat template has none.
            max_tiles: Squares that an image is encoded as, at most, as of `edge-llava chat`; None: as many as it makes.
        """
        torch.set_num_threads(n_threads)
        self.facts = {
            "version": transformers.__version__,
            "torch": torch.__version__,
            "n_threads": n_threads,
            "dtype": dtype,
            "max_tiles": max_tiles,
        }
        self._dtype = getattr(torch, dtype)
        self._model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=self._dtype).eval()
        is_onevision = isinstance(self._model.config, LlavaOnevisionConfig)
        self._processor = (_WithoutVideos if is_onevision else AutoProcessor).from_pretrained(checkpoint)
        if max_tiles is not None:
            _limit_tiles(self._model.config, self._processor, max_tiles)
        self._system = [] if system is None else [_message("system", system)]
        self._messages = list[dict[str, Any]]()
        self._image: Image.Image | None = None

    def ask(self, image: str | None, question: str, n_tokens: int, on_first: Callable[[], None]) -> dict[str, float]:
        """See `protocol.Peer`."""
        if image is not None:
            self._messages = [*self._system]
            with Image.open(image, formats=("JPEG", "PNG")) as opened:
                self._image = opened.convert("RGB")
        self._messages.append(_message("user", question, has_image=image is not None))
        text = self._processor.apply_chat_template(self._messages, add_generation_prompt=True)
        inputs = self._processor(images=self._image, text=text, return_tensors="pt").to(self._dtype)
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs, do_sample=False, max_new_tokens=n_tokens, streamer=_FirstToken(on_first)
            )[0]
        n_prompt = inputs["input_ids"].shape[1]
        self._messages.append(_message("assistant", self._processor.decode(ids[n_prompt:], skip_special_tokens=True)))
        return {"n_tokens": len(ids) - n_prompt, "prompt_tokens": n_prompt}


def _message(role: str, text: str, *, has_image: bool = False) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image"}] * has_image + [{"type": "text", "text": text}]}


def _limit_tiles(config: Any, processor: Any, max_tiles: int) -> None:
    """Leaves out the canvases of more squares, for the processor and for the model."""
    side = config.vision_config.image_size
    canvases = [
        [height, width]
        for height, width in config.image_grid_pinpoints
        if 1 + (height // side) * (width // side) <= max_tiles
    ]
    config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = canvases


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--llava-v1", action="store_true", help="with the system prompt of LLaVA-1.5's own code")
    parser.add_argument("--max-tiles", type=int, metavar="N")
    given = parser.parse_args()
    system = SYSTEM if given.llava_v1 else None
    serve(lambda: TransformersPeer(given.checkpoint, given.threads, given.dtype, system, given.max_tiles))
