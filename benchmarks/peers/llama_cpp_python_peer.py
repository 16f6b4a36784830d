"""llama-cpp-python with its Llava15ChatHandler, on the bundle's language.gguf and mmproj.gguf.

    PYTHON -m peers.llama_cpp_python_peer language.gguf mmproj.gguf --threads 2

Any environment with llama-cpp-python will do, for example edge-llava's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llama_cpp import Llama
from llama_cpp.llama_chat_format import Llava15ChatHandler

from peers.protocol import SYSTEM, serve


class LlamaCppPythonPeer:
    """A Llama with the handler for images, and the messages so far."""

    def __init__(self, language: Path, mmproj: Path, n_threads: int, n_batch: int, *, flash_attention: bool) -> None:
        self.facts = {
            "version": version("llama-cpp-python"),
            "n_threads": n_threads,
            "n_batch": n_batch,
            "flash_attention": flash_attention,
        }
        self._llama = Llama(
            str(language),
            chat_handler=Llava15ChatHandler(str(mmproj), verbose=False),
            n_ctx=0,  # as trained
            n_batch=n_batch,
            n_ubatch=n_batch,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            flash_attn=flash_attention,
            verbose=False,
        )
        self._messages: list[dict[str, Any]] = []

    def ask(self, image: str | None, question: str, n_tokens: int, on_first: Callable[[], None]) -> dict[str, float]:
        """See `protocol.Peer`."""
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if image is not None:
            self._messages = [{"role": "system", "content": SYSTEM}]
            content.insert(0, {"type": "image_url", "image_url": {"url": Path(image).resolve().as_uri()}})
        self._messages.append({"role": "user", "content": content})
        text, reason = "", None
        chunks = self._llama.create_chat_completion(
            self._messages, temperature=0, repeat_penalty=1.0, max_tokens=n_tokens, stream=True
        )
        for count, chunk in enumerate(chunks):
            if count == 0:
                on_first()
            text += chunk["choices"][0]["delta"].get("content", "")
            reason = chunk["choices"][0]["finish_reason"]
        self._messages.append({"role": "assistant", "content": text})
        # chunks are texts, not tokens; only "length" shows that all tokens were written
        return {"n_tokens": n_tokens if reason == "length" else 0, "prompt_tokens": self._llama.n_tokens - n_tokens}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", type=Path)
    parser.add_argument("mmproj", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--flash-attention", action="store_true")
    given = parser.parse_args()
    serve(
        lambda: LlamaCppPythonPeer(
            given.language, given.mmproj, given.threads, given.batch, flash_attention=given.flash_attention
        )
    )
