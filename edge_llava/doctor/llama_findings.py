"""Findings about llama.cpp: how it was built, and which graphics processors it can use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge_llava.doctor.children import Outcome
from edge_llava.doctor.finding import Finding
from edge_llava.doctor.graphics import Graphics
from edge_llava.doctor.processor import INSTRUCTION_SETS
from edge_llava.doctor.system import System
from edge_llava.home.installation import install_command

_CUDA, _METAL, _VULKAN = "-DGGML_CUDA=on", "-DGGML_METAL=on", "-DGGML_VULKAN=on"
_BUILDS = {"NVIDIA": _CUDA, "Jetson": _CUDA, "Apple": _METAL, "AMD": _VULKAN, "Intel": _VULKAN}
_AMX = "-DCMAKE_CXX_FLAGS=-fno-dse"  # without which GCC before 12.4 and 13.3 compiles it wrongly (its bug 114098)
_NEEDS = {_CUDA: " It needs CUDA's toolkit.", _VULKAN: " It needs Vulkan's headers and glslc.", _METAL: ""}


# macOS names neither, and few of the others: there, what is missing from the list says nothing
_NAMED_BY_LINUX = {"AVX", "NEON"}


def _install() -> str:
    return f"Install it: {install_command()}, which compiles llama-cpp-python and takes some minutes."


def find_about_llama(system: System, outcome: Outcome) -> Iterator[Finding]:
    """Yields the findings of what the probe reported."""
    facts = outcome.facts
    version, features = facts.get("version", ""), set(facts.get("features", ()))
    devices: Sequence[Mapping[str, Any]] = facts.get("devices", ())
    if outcome.failure:
        advice = f"Build it for this processor: {_build(version)}"
        if "SIGILL" not in outcome.failure:
            advice = f"Install it again: {_build(version)}" if version else _install()
        yield Finding("problem", "llama.cpp", outcome.failure, advice)
        if not features:
            return
    else:
        yield Finding("ok", "llama.cpp", f"llama-cpp-python {version}: {', '.join(sorted(features))}")
    yield from find_about_build(system, facts)
    used = [device for device in devices if device["kind"] in ("gpu", "igpu")]
    for device in used:
        free, total = (f"{device[name] / 1e9:.1f}" for name in ("free_bytes", "total_bytes"))
        size = f"{free} of {total} GB free" if device["total_bytes"] else "memory unknown"
        yield Finding("ok", "GPU", f"{device['name']}: {device['description']}, {size}, by {device['backend']}")
    if not used:
        for graphics in system.graphics:
            yield _about_unused(graphics, version, system.nvcc)


def find_about_build(system: System, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what another build of llama.cpp would do better here.

    Args:
        system: The device.
        facts: What the probe reported.
    """
    version, features = facts.get("version", ""), set(facts.get("features", ()))
    lacking = (features & INSTRUCTION_SETS) - system.processor.features
    if lacking and system.processor.features & _NAMED_BY_LINUX:
        yield Finding(
            "problem",
            "llama.cpp",
            f"it was built with {', '.join(sorted(lacking))}, which this processor lacks, and will be ended by SIGILL",
            f"Build it for this processor: {_build(version)}",
        )
    missing = system.processor.features - features
    has_wrong_amx = "AMX_INT8" in features and facts.get("amx_works") is False
    lacks_openmp = bool(facts.get("gcc")) and "OPENMP" not in features  # which every GCC has
    # all that is advised, so that one command does not undo another
    settings = [_AMX] if "AMX_INT8" in missing or has_wrong_amx else []
    settings += ["-DGGML_OPENMP=on"] * lacks_openmp
    settings += [f"-DGGML_{name.upper()}=on" for name in _backends(facts)]
    if missing:
        words = "no SOURCE_DATE_EPOCH may be set, which it is" if "SOURCE_DATE_EPOCH" in os.environ else ""
        yield Finding(
            "hint",
            "llama.cpp",
            f"this processor has {', '.join(sorted(missing))}, which llama.cpp was built without",
            f"Build it for this processor: {_build(version, *settings)}" + (f"; {words}" if words else ""),
        )
    if lacks_openmp:
        yield Finding(
            "hint",
            "llama.cpp",
            "it was built without OpenMP, and starts its threads anew for every token",
            f"Build it with OpenMP: {_build(version, *settings)}",
        )
    if has_wrong_amx:
        yield _about_amx(facts.get("gcc", ""), _build(version, *settings))


def _backends(facts: Mapping[str, Any]) -> list[str]:
    """Those of the GPUs that llama.cpp can use: "CUDA"."""
    devices = facts.get("devices", ())
    return list(dict.fromkeys(device["backend"] for device in devices if device["kind"] in ("gpu", "igpu")))


def _about_amx(gcc: str, command: str) -> Finding:
    if not is_wrong_gcc(gcc):
        return Finding("hint", "llama.cpp", "its kernels for AMX fail here, and are not used")
    return Finding(
        "hint",
        "llama.cpp",
        f"GCC {gcc} compiled its kernels for AMX wrongly (GCC bug 114098), so that they are not used",
        f"Build it with clang, a newer GCC, or: {command}",
    )


def is_wrong_gcc(version: str) -> bool:
    """Whether a GCC, "12.2", has the bug 114098, which 12.4 and 13.3 repaired."""
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    return (0,) < numbers < (12, 4) or (13,) <= numbers < (13, 3)


def _about_unused(graphics: Graphics, version: str, nvcc: str) -> Finding:
    name = graphics.name + (f", driver {graphics.driver}" if graphics.driver else "")
    if graphics.maker == "NVIDIA" and not graphics.driver:
        return Finding("hint", "GPU", f"{name} has no driver", "Install NVIDIA's driver, 580 or newer for CUDA 13.")
    build = _BUILDS[graphics.maker]
    # one architecture instead of all takes a sixth of the time
    settings = [build] + [f"-DCMAKE_CUDA_ARCHITECTURES={graphics.architecture}"] * bool(graphics.architecture)
    has_nvcc = build == _CUDA and nvcc
    # CMake builds for the CPU alone, without a word, where it does not find nvcc
    compiler = f"CUDACXX={nvcc} " if has_nvcc and nvcc != "nvcc" else ""
    needs = "" if has_nvcc else _NEEDS[build]
    advice = f"Build it: {compiler}{_build(version, *settings)}.{needs}"
    return Finding("hint", "GPU", f"{name} is not used: llama.cpp was built without it", advice)


def _build(version: str, *settings: str) -> str:
    """The command that builds llama-cpp-python for this processor."""
    arguments = f'CMAKE_ARGS="{" ".join(settings)}" ' if settings else ""
    package = f"llama-cpp-python=={version}" if version else "llama-cpp-python"
    return f"{arguments}pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python {package}"
