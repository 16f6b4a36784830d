"""Runs llama.cpp's own benchmark with edge-llava's settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FLASH_ATTENTION = {None: "auto", True: "on", False: "off"}


def run_llama_bench(
    program: Path, language: Path, settings: Mapping[str, Any], *, n_prompt: int = 0, n_tokens: int = 0, depth: int = 0
) -> float:
    """Measures the tokens per second of one prefill or one decode, after a warm-up.

    Args:
        program: The llama-bench program.
        language: The GGUF file.
        settings: See `chat_options.engine_facts`.
        n_prompt, n_tokens: Positions to prefill, or tokens to decode; one of them is 0.
        depth: Positions in the context before that.
    """
    command = [
        program, "-m", language, "-p", n_prompt, "-n", n_tokens, "-d", depth, "-t", settings["n_threads"],
        "-b", settings["n_batch"], "-ub", settings["n_batch"], "--repack", int(settings["repack"]),
        "-fa", _FLASH_ATTENTION[settings["flash_attention"]], "-r", 1, "-o", "json",
    ]  # fmt: skip
    if settings["kv_type"] != "auto":
        command += ["-ctk", settings["kv_type"], "-ctv", settings["kv_type"]]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])
