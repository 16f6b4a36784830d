"""The examination: facts are read, probes are run side by side, and findings made of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_llava.bundle.bundle import Bundle
from edge_llava.doctor.children import Outcome, run_probes
from edge_llava.doctor.device_findings import find_about_device
from edge_llava.doctor.finding import Finding
from edge_llava.doctor.llama_findings import find_about_llama
from edge_llava.doctor.onnx_findings import find_about_onnx
from edge_llava.doctor.surroundings import find_about_surroundings
from edge_llava.doctor.system import System, this_system

_LIMIT_S, _BUNDLE_LIMIT_S = 60.0, 1800.0  # CUDA's first start takes 10 s and more
_NONE = Outcome({})


@dataclass(frozen=True)
class Examination:
    """Findings, and the facts that they were made of.

    Attributes:
        system: The device.
        outcomes: What the probes reported, by name.
        findings: In the order in which they are shown.
    """

    system: System
    outcomes: Mapping[str, Outcome]
    findings: Sequence[Finding]

    @property
    def ok(self) -> bool:
        """Whether no finding is a problem."""
        return all(finding.level != "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        system = asdict(self.system)
        system["processor"]["features"] = sorted(self.system.processor.features)
        return {
            "ok": self.ok,
            "findings": [finding.to_dict() for finding in self.findings],
            "system": system,
            "probes": {name: asdict(outcome) for name, outcome in self.outcomes.items()},
        }


def examine(bundle: Bundle | None) -> Examination:
    """Examines this device and installation.

    Args:
        bundle: A bundle to be verified here, too.
    """
    system = this_system()
    probes: dict[str, tuple[str, ...]] = {"answer": (), "ONNX Runtime": (), "llama.cpp": ()}
    if system.has_nvidia or "onnxruntime-gpu" in system.onnx_packages:
        probes["CUDA driver"] = ()
    outcomes = run_probes(probes, _LIMIT_S)
    if bundle is not None:
        outcomes |= run_probes({"bundle": (str(bundle.path),)}, _BUNDLE_LIMIT_S)
    return Examination(system, outcomes, tuple(_find(system, outcomes, bundle)))


def _find(system: System, outcomes: Mapping[str, Outcome], bundle: Bundle | None) -> Iterator[Finding]:
    yield from find_about_surroundings()
    yield from find_about_device(system)
    yield from find_about_llama(system, outcomes["llama.cpp"])
    yield from find_about_onnx(system, outcomes["ONNX Runtime"], outcomes.get("CUDA driver", _NONE))
    yield find_about_answer(outcomes["answer"])
    if bundle is not None:
        from edge_llava.doctor.bundle_findings import find_about_bundle

        yield from find_about_bundle(bundle, outcomes["bundle"])


def find_about_answer(outcome: Outcome) -> Finding:
    """Whether both engines together computed the known answer."""
    facts = outcome.facts
    places = f"language on {facts.get('language_on')}, vision on {facts.get('vision_on')}"
    if facts.get("is_right"):
        return Finding("ok", "answer", f"the known answer about an image was computed, {places}")
    is_wrong_build = "SIGILL" in outcome.failure
    advice = (
        "llama.cpp or ONNX Runtime was built for another processor; see above."
        if is_wrong_build
        else "Try --gpu-layers 0 and --provider cpu, and see `edge-llava-selftest`."
    )
    if outcome.failure:
        return Finding("problem", "answer", f"no answer about an image: {outcome.failure}", advice)
    return Finding("problem", "answer", f"the answer about an image is wrong, {places}", advice)
