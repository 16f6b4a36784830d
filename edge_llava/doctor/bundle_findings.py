"""Findings about one bundle: whether it computes here what it should, and whether it fits in memory."""

from __future__ import annotations

from collections.abc import Iterator

from edge_llava.bundle.bundle import Bundle
from edge_llava.doctor.children import Outcome
from edge_llava.doctor.finding import Finding


def find_about_bundle(bundle: Bundle, outcome: Outcome) -> Iterator[Finding]:
    """Yields the findings of a bundle, by what its probe reported."""
    if "takes" in outcome.facts:
        yield find_about_size(bundle.name, outcome)
    checks = outcome.facts.get("checks", ())
    wrong = [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
    if outcome.failure or wrong:
        text = outcome.failure or f"does not compute here what it should: {'; '.join(wrong)}"
        yield Finding("problem", "bundle", text, f"See: edge-llava verify {bundle.name}")
    else:
        yield Finding("ok", "bundle", f"{', '.join(check['name'] for check in checks)} match its record")


def find_about_size(name: str, outcome: Outcome) -> Finding:
    """Whether it fits into what is free, and with which settings it would."""
    facts = outcome.facts
    free, settings = facts["free"], facts["settings"]
    text = f"{name} takes {facts['takes'] / 1e9:.2f} GB" + ("" if free is None else f"; {free / 1e9:.2f} GB are free")
    if facts["verdict"] == "fits":
        return Finding("ok", "memory", text)
    advice = f"What fits: {settings[0]}." if settings else "Close other programs, or convert with fewer bits (--quant)."
    return Finding("hint", "memory", text, f"{advice} See: edge-llava fit {name}")
