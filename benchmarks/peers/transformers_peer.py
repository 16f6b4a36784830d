"""transformers' LlavaForConditionalGeneration on the CPU, on a checkpoint that `hub_files.py` completed.

    PYTHON -m peers.transformers_peer llava-1.1b-hf --threads 2 --dtype bfloat16

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
from transformers import AutoProcessor, LlavaForConditionalGeneration

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


class TransformersPeer:
    """Model, processor, and the conversation so far as text; no KV cache is kept."""

    def __init__(self, checkpoint: Path, n_threads: int, dtype: str) -> None:
        torch.set_num_threads(n_threads)
        self.facts = {
            "version": transformers.__version__,
            "torch": torch.__version__,
            "n_threads": n_threads,
            "dtype": dtype,
        }
        self._dtype = getattr(torch, dtype)
        self._processor = AutoProcessor.from_pretrained(checkpoint)
        self._model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=self._dtype).eval()
        self._text = ""
        self._image: Image.Image | None = None

    def ask(self, image: str | None, question: str, n_tokens: int, on_first: Callable[[], None]) -> dict[str, float]:
        """See `protocol.Peer`."""
        if image is None:
            self._text += f"USER: {question} ASSISTANT:"
        else:
            self._text = f"{SYSTEM} USER: <image>\n{question} ASSISTANT:"
            with Image.open(image, formats=("JPEG", "PNG")) as opened:
                self._image = opened.convert("RGB")
        inputs = self._processor(images=self._image, text=self._text, return_tensors="pt").to(self._dtype)
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs, do_sample=False, max_new_tokens=n_tokens, streamer=_FirstToken(on_first)
            )[0]
        n_prompt = inputs["input_ids"].shape[1]
        self._text += self._processor.decode(ids[n_prompt:], skip_special_tokens=True) + "</s>"
        return {"n_tokens": len(ids) - n_prompt, "prompt_tokens": n_prompt}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    given = parser.parse_args()
    serve(lambda: TransformersPeer(given.checkpoint, given.threads, given.dtype))
