"""manifest.json of a bundle that is opened, shown and asked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from damage import damage_json
from frame import Kind, copy_small_bundle

import edge_llava
from edge_llava.bundle.bundle import Bundle
from edge_llava.cli.inspect import command
from edge_llava.errors import BackendError, BundleError, ContextOverflow, ImageError
from edge_llava.runtime.options import DecoderOptions, EngineOptions

_OPTIONS = EngineOptions(DecoderOptions(n_ctx=256, n_threads=1), n_vision_threads=1)
_IMAGE = np.zeros((9, 16, 3), np.uint8)


def make(directory: Path) -> Sequence[bytes]:
    """The small bundle's."""
    return [copy_small_bundle(directory).path.joinpath("manifest.json").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Opens the bundle, shows it as `inspect` does, and asks one question."""
    (directory / "manifest.json").write_bytes(content)
    Bundle.open(directory)
    with contextlib.redirect_stdout(io.StringIO()):
        command.main([str(directory)], standalone_mode=False)
    with edge_llava.load(directory, _OPTIONS) as model:
        options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=2)
        list(model.session(options).ask("x", image=_IMAGE))


_ERRORS = (BundleError, BackendError, ContextOverflow, ImageError)
KIND = Kind(n_cases=400, make=make, damage=damage_json, read=read, errors=_ERRORS)
