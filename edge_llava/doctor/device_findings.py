"""Findings about the device: its processor, its memory, its power."""

from __future__ import annotations

from collections.abc import Iterator

from edge_llava.device.main_memory import Memory
from edge_llava.doctor.finding import Finding
from edge_llava.doctor.power import Power
from edge_llava.doctor.system import System

_LITTLE_MEMORY = 2 << 30  # less than a 1.1B model with its tower takes, in bytes
_SAVING_PROFILES = ("low-power", "cool", "quiet")
_CAPPED = 0.8  # of the highest clock


def find_about_device(system: System) -> Iterator[Finding]:
    """Yields the findings of a device."""
    processor, group = system.processor, system.group
    cores = f", {processor.n_big} fast and {processor.n_little} slow CPUs" if processor.n_little else ""
    yield Finding("ok", "processor", f"{processor.name}{cores}: {', '.join(sorted(processor.features)) or 'unknown'}")
    quota = "" if group.n_cpus is None else f"; this container has {group.n_cpus:g} CPUs' worth of time"
    yield Finding("ok", "threads", f"{system.n_threads} by default{quota}")
    yield _about_memory(system)
    yield from _about_power(system.power)


def _about_memory(system: System) -> Finding:
    memory, free = system.memory, system.memory.free_bytes
    is_shared = any(one.maker in ("Jetson", "Apple") for one in system.graphics)
    text = describe_memory(memory) + (", shared with the GPU" if is_shared else "")
    if free is None or free >= _LITTLE_MEMORY:
        return Finding("ok", "memory", text)
    return Finding(
        "hint",
        "memory",
        text,
        "Close other programs, or take a smaller model or context (-c 1024) and --low-memory; the system ends programs "
        "that take more.",
    )


def describe_memory(memory: Memory) -> str:
    """What there is, what is free, and the container's limit."""
    parts = [f"{_gigabytes(memory.total_bytes)} in all, {_gigabytes(memory.available_bytes)} free"]
    if memory.group_bytes is not None:
        group, left = _gigabytes(memory.group_bytes), _gigabytes(memory.group_free_bytes)
        parts.append(f"this container may use {group}, of which {left} are free")
    return "; ".join(parts)


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def _about_power(power: Power) -> Iterator[Finding]:
    for sign in power.heat:
        yield Finding("hint", "heat", sign, "Cool it, or give it a better supply: it computes slower than it can.")
    slow = []
    if power.profile in _SAVING_PROFILES:
        slow.append((f"its profile is {power.profile}", "powerprofilesctl set performance"))
    if power.governor == "powersave":
        slow.append(("its clocks are governed by powersave", "sudo cpupower frequency-set -g performance"))
    if power.on_battery:
        slow.append(("it runs on its battery", "plug it in"))
    if power.capped_share < _CAPPED:
        slow.append((f"its clock is capped at {power.capped_share:.0%}", "raise scaling_max_freq in /sys"))
    if power.mode and not power.mode.startswith("MAXN"):
        slow.append((f"its power mode is {power.mode}", "sudo nvpmodel -m 0 && sudo jetson_clocks"))
    for text, cure in slow:
        yield Finding("hint", "power", text, f"For full speed: {cure}")
    if not power.heat and not slow:
        facts = (power.mode, power.governor, power.profile)
        yield Finding("ok", "power", ", ".join(filter(None, facts)) or "nothing slows it down that the system tells of")
