"""Findings about ONNX Runtime: which packages of it there are, and which providers really start."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_llava.device.onnx_packages import repair
from edge_llava.doctor.children import Outcome
from edge_llava.doctor.finding import Finding
from edge_llava.doctor.system import System
from edge_llava.home.installation import install_command

_LIBRARY = re.compile(r"\S+\.(?:so|dll)\b")
_NAMES = {"cuda": "CUDA", "coreml": "CoreML", "directml": "DirectML", "openvino": "OpenVINO"}


def find_about_onnx(system: System, outcome: Outcome, driver: Outcome) -> Iterator[Finding]:
    """Yields the findings of what the probes of ONNX Runtime and of CUDA's driver reported."""
    packages, facts = dict(system.onnx_packages), outcome.facts
    if len(packages) > 1:
        yield Finding(
            "problem",
            "ONNX Runtime",
            f"{' and '.join(packages)} are both installed, and overwrite each other",
            f"Keep one: {repair(packages)}.",
        )
    if outcome.failure:
        where = _NAMES.get(facts.get("trying", ""), "")
        text = f"{where}: {outcome.failure}" if where else outcome.failure
        advice = "Use --provider cpu." if where else "" if "pip install" in text else f"Install it: {repair(packages)}."
        yield Finding("problem", "ONNX Runtime", text, advice)
    providers: dict[str, str] = facts.get("providers", {})
    started = [_NAMES.get(name, "CPU") for name, reason in providers.items() if not reason]
    if started:
        yield Finding("ok", "ONNX Runtime", f"version {facts['version']}, runs on {', '.join(started)}")
    for name, reason in providers.items():
        if reason:
            build = str(facts.get("cuda_version", ""))
            yield _about_cuda(system, reason, build, driver) if name == "cuda" else _about_other(name, reason)
    if system.has_nvidia and "cuda" not in providers and not outcome.failure:
        yield _about_missing_cuda(system)


def _about_other(name: str, reason: str) -> Finding:
    if name == "cpu":
        return Finding("problem", "ONNX Runtime", f"the CPU's provider fails: {reason}", "Install it again.")
    text = f"{_NAMES[name]} does not run here: {reason}"
    return Finding("hint", "ONNX Runtime", text, "Use --provider cpu, or remove its package.")


def _about_cuda(system: System, reason: str, build: str, driver: Outcome) -> Finding:
    text = f"it was built for CUDA {build}, which does not run here: {reason}"
    newest = str(driver.facts.get("cuda", ""))
    if not system.has_nvidia:
        cure = repair(dict(system.onnx_packages), "cpu")
        return Finding("hint", "ONNX Runtime", text, f"There is no NVIDIA GPU: {cure}.")
    if any(one.maker == "Jetson" for one in system.graphics):
        advice = "PyPI's package has no kernels for a Jetson: use --provider cpu, and convert with --vision int8."
    elif newest and _major(newest) < _major(build):
        advice = (
            f"The driver runs CUDA {newest} at most. Update it, to 580 or newer for CUDA 13, or: "
            f"{repair(dict(system.onnx_packages), 'cuda12')}."
        )
    elif _LIBRARY.search(reason):
        extra = "cuda12" if _major(build) == 12 else "cuda"
        advice = f"Its libraries are missing: `{install_command(extra)}` brings them along."
    elif "no kernel image" in reason:
        advice = "The package has no kernels for this GPU: use --provider cpu."
    else:
        advice = "Update NVIDIA's driver, or use --provider cpu."
    return Finding("problem", "ONNX Runtime", text, advice)


def _about_missing_cuda(system: System) -> Finding:
    if any(one.maker == "Jetson" for one in system.graphics):
        return Finding("ok", "ONNX Runtime", "images are encoded by the CPU; PyPI has no build for a Jetson's GPU")
    return Finding(
        "hint",
        "ONNX Runtime",
        "there is an NVIDIA GPU, and this ONNX Runtime encodes images on the CPU",
        f"For CUDA: {repair(dict(system.onnx_packages), 'cuda')}.",
    )


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0
