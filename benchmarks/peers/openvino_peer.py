"""OpenVINO GenAI's VLMPipeline on the CPU, on a checkpoint exported by optimum with 4-bit weights.

python -m venv ov
ov/bin/pip install torch==2.13.0 openvino-genai==2026.4.1.0 'optimum-intel[openvino]==2.2.0' nncf==3.4.0
python benchmarks/hub_files.py llava-1.1b llava-1.1b-hf
ov/bin/optimum-cli export openvino -m llava-1.1b-hf --task image-text-to-text --weight-format int4 llava-1.1b-ov

ov/bin/python -m peers.openvino_peer llava-1.1b-ov --threads 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from PIL import Image

from peers.protocol import SYSTEM, serve


class _FirstToken(genai.StreamerBase):
    """Reports the first token, and counts all."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        super().__init__()
        self.n_tokens = 0
        self._on_first = on_first

    def write(self, token: int | list[int]) -> Any:
        if not self.n_tokens:
            self._on_first()
        self.n_tokens += len(token) if isinstance(token, list) else 1
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""


class OpenVinoPeer:
    """A pipeline and the conversation so far, whose KV cache it keeps."""

    def __init__(self, model: Path, n_threads: int) -> None:
        self.facts = {"version": genai.get_version(), "n_threads": n_threads, "model": model.name}
        self._pipeline = genai.VLMPipeline(
            str(model), "CPU", PERFORMANCE_HINT="LATENCY", INFERENCE_NUM_THREADS=n_threads
        )
        self._history = genai.ChatHistory()

    def ask(self, image: str | None, question: str, n_tokens: int, on_first: Callable[[], None]) -> dict[str, float]:
        """See `protocol.Peer`."""
        images = []
        if image is not None:
            self._history = genai.ChatHistory()
            self._history.append({"role": "system", "content": SYSTEM})
            with Image.open(image, formats=("JPEG", "PNG")) as opened:
                images.append(openvino.Tensor(np.asarray(opened.convert("RGB"))[None]))
        self._history.append({"role": "user", "content": question})
        config = genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = n_tokens, False, True
        streamer = _FirstToken(on_first)
        result = self._pipeline.generate(self._history, images=images, generation_config=config, streamer=streamer)
        self._history.append({"role": "assistant", "content": result.texts[0]})
        metrics = result.perf_metrics
        return {
            "n_tokens": streamer.n_tokens,
            "vision_s": metrics.get_prepare_embeddings_duration().mean / 1000,
            "prompt_tokens": metrics.get_num_input_tokens(),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    serve(lambda: OpenVinoPeer(given.model, given.threads))
