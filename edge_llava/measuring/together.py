"""How many answers at a time give a device the most captions: several tokens in one step against one alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import numpy as np

from edge_llava.bundle.bundle import Bundle
from edge_llava.fitting.bundle_needs import estimate_needs, used_devices
from edge_llava.fitting.room import read_room
from edge_llava.measuring.stages import N_ANSWER
from edge_llava.runtime.kv.sequence import KvSequence
from edge_llava.runtime.language.decoder import Decoder, RowChunk, TokenChunk
from edge_llava.runtime.options import EngineOptions, unattended

COUNTS = (2, 4, 8)
_N_STEPS = 3  # after one to warm up
_WORTH = 1.05  # more at a time take more memory, and must give so many times the captions
_IMAGE = "noise"


def measure_steps(bundle: Bundle, options: EngineOptions, n_positions: int, deadline: float) -> dict[int, float]:
    """Seconds of a step that gives each of several answers its next token, by the number of answers.

    Each stands behind positions of its own, as captions do. What does not fit in memory is left out, and what would
    begin after the deadline.

    Args:
        bundle: An opened bundle; its digests are not checked here.
        options: Of one answer at a time.
        n_positions: Of an image and its prompt.
        deadline: Reading of `time.perf_counter`.

    Raises:
        BackendError: If llama.cpp fails.
    """
    spec, room = bundle.manifest.language, read_room(used_devices(options))
    counts = [n for n in COUNTS if room.judge(estimate_needs(bundle, unattended(options, spec, n))) == "fits"]
    if not counts:
        return {}
    n_each = n_positions + 1
    decoder = replace(options.decoder, n_ctx=n_each)
    steps: dict[int, float] = {}
    with closing(Decoder(bundle.file("language"), spec, decoder, n_parallel=counts[-1])) as language:
        sequences = [_read_image(language, n_positions)]
        positions = list(sequences[0].positions)
        state = language.sequences.copy_prefix(sequences[0], positions)
        for n in counts:
            if time.perf_counter() > deadline:
                break
            while len(sequences) < n:
                sequences.append(language.sequences.claim([]))
                language.sequences.restore(sequences[-1], state, positions)
            steps[n] = statistics.median([_step(language, sequences) for _ in range(1 + _N_STEPS)][1:])
    return steps


def most_captions(steps: Mapping[int, float], one_step_s: float, other_s: float) -> int:
    """The number at a time that gives the most captions; more than one only where that is worth their memory.

    Args:
        steps: As of `measure_steps`.
        one_step_s: Seconds of one answer's token alone.
        other_s: Seconds that an image and its prompt take, of which nothing is saved.
    """
    best, best_s = 1, other_s + N_ANSWER * one_step_s
    for n, step_s in sorted(steps.items()):
        caption_s = other_s + N_ANSWER * step_s / n
        if _WORTH * caption_s < best_s:
            best, best_s = n, caption_s
    return best


def _read_image(language: Decoder, n_positions: int) -> KvSequence:
    sequence = language.sequences.claim([])
    noise = 0.02 * np.random.default_rng(0).standard_normal((n_positions, language.spec.n_embd))
    rows = noise.astype(np.float32)
    for start in range(0, n_positions, language.n_batch):
        language.decode_rows([RowChunk(sequence, rows[start : start + language.n_batch], _IMAGE, start)])
    return sequence


def _step(language: Decoder, sequences: list[KvSequence]) -> float:
    started = time.perf_counter()
    language.decode_tokens([TokenChunk(sequence, (1,), is_last=True) for sequence in sequences])
    language.logits()
    seconds = time.perf_counter() - started
    for sequence in sequences:
        language.sequences.truncate(sequence, len(sequence.positions) - 1)
    return seconds
