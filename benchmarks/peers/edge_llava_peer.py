"""edge-llava as a library. Started by `compare.py` itself, in the environment that `compare.py` runs in."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from chat_options import engine_facts, engine_options

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.model import LlavaModel
from peers.protocol import serve


class EdgeLlavaPeer:
    """A LlavaModel and its last conversation."""

    def __init__(self, bundle: Path, words: list[str]) -> None:
        """
        Args:
            bundle: Directory.
            words: Options of `edge-llava chat`.
        """
        options = engine_options(bundle, words)
        self.facts = engine_facts(options)
        self._model = LlavaModel(Bundle.open(bundle), options)
        self._session = self._model.session()

    def ask(self, image: str | None, question: str, n_tokens: int, on_first: Callable[[], None]) -> dict[str, float]:
        """See `protocol.Peer`."""
        options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=n_tokens)
        if image is None:
            self._session.options = options
        else:
            self._session = self._model.session(options)
        tokens = self._session.ask(question, image=image)
        for count, _ in enumerate(tokens):
            if count == 0:
                on_first()
        timings = self._session.timings
        assert timings is not None
        return {
            "n_tokens": timings.decode_tokens,
            "vision_s": timings.vision_s,
            "projector_s": timings.projector_s,
            "prefill_s": timings.prefill_s,
            "prefill_tokens": timings.prefill_tokens,
            "prompt_tokens": timings.prefill_tokens + timings.cached_tokens,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    # the rest are options of `edge-llava chat`
    known, rest = parser.parse_known_args()
    serve(lambda: EdgeLlavaPeer(known.bundle, rest))
