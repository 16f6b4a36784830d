"""Findings about one bundle: whether it computes here what it should, and whether it fits in memory."""

from __future__ import annotations

from collections.abc import Iterator

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.main_memory import Memory
from edge_llava.doctor.children import Outcome
from edge_llava.doctor.finding import Finding
from edge_llava.runtime.options import DecoderOptions, n_ctx

_PROGRAMS = 250_000_000  # Python, both engines and their buffers, in bytes
_COPIED = 1.15  # of the tower's file, when it was opened and its weights rearranged


def find_about_bundle(bundle: Bundle, memory: Memory, outcome: Outcome) -> Iterator[Finding]:
    """Yields the findings of a bundle, by what its probe reported."""
    yield about_size(bundle, memory)
    checks = outcome.facts.get("checks", ())
    wrong = [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
    if outcome.failure or wrong:
        text = outcome.failure or f"does not compute here what it should: {'; '.join(wrong)}"
        yield Finding("problem", "bundle", text, f"See: edge-llava verify {bundle.name}")
    else:
        yield Finding("ok", "bundle", f"{', '.join(check['name'] for check in checks)} match its record")


def needed_bytes(bundle: Bundle, size: int) -> int:
    """Memory that chatting takes with a context of `size` positions and an f16 cache, about."""
    files, language = bundle.manifest.files, bundle.manifest.language
    tower = sum(files[role].bytes for role in ("vision", "vision_data") if role in files)
    # keys and values of each position, in two bytes each
    width = language.n_embd // language.n_head * language.n_head_kv
    cache = size * language.n_layer * width * 2 * 2
    return int(files["language"].bytes + files["projector"].bytes + _COPIED * tower + cache + _PROGRAMS)


def about_size(bundle: Bundle, memory: Memory) -> Finding:
    """Whether it fits into what is free, and with which settings it would."""
    size, free = n_ctx(bundle.manifest.language, DecoderOptions()), memory.free_bytes
    needed = needed_bytes(bundle, size)
    text = f"{bundle.name} takes about {needed / 1e9:.1f} GB with {size} positions"
    if free is None:
        return Finding("ok", "memory", text)
    text += f"; {free / 1e9:.1f} GB are free"
    if needed <= free:
        return Finding("ok", "memory", text)
    smaller = next((n for n in (2048, 1024) if n < size and needed_bytes(bundle, n) <= free), None)
    advice = (
        f"Give -c {smaller}." if smaller else "Close other programs, give -c 1024 --low-memory, or convert smaller."
    )
    return Finding("hint", "memory", text, advice)
