"""An entry of the cache of computed prefixes, most of them with a right header and digest."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from damage import damage_bytes
from frame import Kind, copy_small_bundle

import edge_llava
from edge_llava.errors import BackendError
from edge_llava.home.directories import cache_directory
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions

_HEADER = struct.Struct("<16sQ32sQ32s")
_IMAGE = np.zeros((9, 16, 3), np.uint8)
_OPTIONS = edge_llava.SamplingOptions(temperature=0, max_new_tokens=3)
_open: dict[Path, tuple[LlavaModel, Path]] = {}


def make(directory: Path) -> Sequence[bytes]:
    """What one question about an image leaves."""
    bundle = copy_small_bundle(directory)
    options = EngineOptions(DecoderOptions(n_ctx=256, n_threads=1), n_vision_threads=1, cache=True)
    model = LlavaModel(bundle, options)
    list(model.session(_OPTIONS).ask("x", image=_IMAGE))
    (entry,) = cache_directory().glob("*.kv")
    _open[directory] = model, entry
    return [entry.read_bytes()]


def damage(content: bytes, rng: Random) -> bytes:
    """Other bytes; mostly of the state alone, for which size and digest are put right."""
    if rng.random() < 0.1:
        return damage_bytes(content, rng)
    magic, version, key, _, _ = _HEADER.unpack(content[: _HEADER.size])
    state = damage_bytes(content[_HEADER.size :], rng)
    if rng.random() < 0.3:
        state = bytearray(state)
        at = rng.randrange(len(state) + 1)
        state[at : at + 400] = struct.pack("<f", rng.choice((np.nan, np.inf, -np.inf, 1e30))) * 100
    return _HEADER.pack(magic, version, key, len(state), hashlib.sha256(state).digest()) + state


def read(directory: Path, content: bytes) -> None:
    """Asks the same question again, in a new conversation of an empty context."""
    model, entry = _open[directory]
    entry.write_bytes(content)
    sequences = model.engine.language.sequences
    for sequence in sequences._sequences:
        sequences.truncate(sequence, 0)
    tokens = list(model.session(_OPTIONS).ask("x", image=_IMAGE))
    assert tokens[-1].finish_reason is not None


KIND = Kind(n_cases=200, make=make, damage=damage, read=read, errors=(BackendError,))
