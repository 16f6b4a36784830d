"""Turns options of `edge-llava chat` into the library's, so that benchmarks run what a user would type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.chat import command
from edge_llava.cli.options import EngineChoice
from edge_llava.device.threads import default_threads


def engine_options(bundle: Path, words: Sequence[str]) -> edge_llava.EngineOptions:
    """The options that `edge-llava chat -m BUNDLE *words` runs with, including what `tune` measured on this device."""
    given = command.make_context("chat", ["-m", str(bundle), *words]).params
    names = {field.name for field in fields(EngineChoice)} & given.keys()
    return EngineChoice(**{name: given[name] for name in names}).options(Bundle.open(bundle))


def engine_facts(options: edge_llava.EngineOptions) -> dict[str, Any]:
    """The options as facts for a report, with defaults resolved to numbers."""
    facts = asdict(options)
    decoder = facts.pop("decoder")
    facts["n_vision_threads"] = options.n_vision_threads or default_threads()
    decoder["n_threads"] = options.decoder.n_threads or default_threads()
    return {"version": version("edge-llava")} | facts | decoder
