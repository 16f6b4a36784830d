"""Options of `edge-llava chat` as the library's: the benchmarks run what a user would type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edge_llava
from edge_llava.cli.chat import command
from edge_llava.cli.options import EngineChoice
from edge_llava.device.threads import count_cores


def engine_options(bundle: Path, words: Sequence[str]) -> edge_llava.EngineOptions:
    """What `edge-llava chat -m BUNDLE *words` would run with, what `tune` measured on this device included."""
    with command.make_context("chat", ["-m", str(bundle), *words]):
        return EngineChoice.said().options(str(bundle))


def engine_facts(options: edge_llava.EngineOptions) -> dict[str, Any]:
    """The same for a report, with numbers for what was left open."""
    facts = asdict(options)
    decoder = facts.pop("decoder")
    facts["n_vision_threads"] = options.n_vision_threads or count_cores()
    decoder["n_threads"] = options.decoder.n_threads or count_cores()
    return {"version": version("edge-llava")} | facts | decoder
