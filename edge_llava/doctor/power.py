"""What makes a device slower than it can be: its power mode, its battery, its heat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge_llava.device.tree import Tree

_CLOCKS = "sys/devices/system/cpu/cpufreq/policy*"  # of each kind of cores
_FIRST_CPU = "sys/devices/system/cpu/cpu0/cpufreq"
_HOT = 90_000  # thousandths of a degree; processors slow down at 85 to 100
_PI_BITS = {0: "its voltage is too low", 1: "its clock is capped", 2: "it is throttled", 3: "it is too hot"}
_PI_PAST = 16  # the same four bits, since the start


@dataclass(frozen=True)
class Power:
    """Power and heat; "" and empty where the system does not tell.

    Attributes:
        governor: How Linux chooses clocks: "schedutil", "performance", or "powersave" if it does so for any kind of
            cores; "" where the processor does.
        profile: Of the firmware: "low-power", "balanced", "performance".
        on_battery: Whether it is discharging.
        mode: Of a Jetson: "15W", "MAXN_SUPER".
        capped_share: The highest clock that is allowed, of the highest that there is, of the most limited cores.
        heat: What shows that it is, or was, slowed down by heat or by a weak supply.
    """

    governor: str
    profile: str
    on_battery: bool
    mode: str
    capped_share: float
    heat: tuple[str, ...]


def read_power(tree: Tree, nvpmodel: str = "") -> Power:
    """Reads /sys.

    Args:
        tree: The system's files.
        nvpmodel: What a Jetson's `nvpmodel -q` prints; "" elsewhere.
    """
    mode = re.search(r"NV Power Mode:\s*(\S+)", nvpmodel)
    clocks = tuple(tree.places(_CLOCKS)) or (_FIRST_CPU,)
    governors = [tree.text(f"{place}/scaling_governor") for place in clocks if not _chooses_itself(tree, place)]
    states = {tree.text(f"{place}/status") for place in tree.places("sys/class/power_supply/*")}
    return Power(
        governor="powersave" if "powersave" in governors else next(iter(governors), ""),
        profile=tree.text("sys/firmware/acpi/platform_profile"),
        on_battery="Discharging" in states,
        mode=mode[1] if mode else "",
        capped_share=min(_allowed_share(tree, place) for place in clocks),
        heat=(*_hot_zones(tree), *_cooled(tree), *_of_pi(tree)),
    )


def _chooses_itself(tree: Tree, clock: str) -> bool:
    """With these drivers, "powersave" is the name of what is usual. Source: Linux's admin-guide/pm/intel_pstate.rst."""
    return tree.text(f"{clock}/scaling_driver") in ("intel_pstate", "amd-pstate-epp")


def _allowed_share(tree: Tree, clock: str) -> float:
    allowed, highest = (tree.number(f"{clock}/{name}_max_freq") for name in ("scaling", "cpuinfo"))
    return allowed / highest if allowed and highest else 1.0


def _hot_zones(tree: Tree) -> Iterator[str]:
    zones = [(tree.number(f"{place}/temp") or 0, place) for place in tree.places("sys/class/thermal/thermal_zone*")]
    temperature, place = max(zones, default=(0, ""))
    if temperature >= _HOT:
        yield f"{tree.text(f'{place}/type') or 'the processor'} is at {temperature / 1000:.0f} degrees"


def _cooled(tree: Tree) -> Iterator[str]:
    for place in tree.places("sys/class/thermal/cooling_device*"):
        kind = tree.text(f"{place}/type")
        is_processor = "cpu" in kind.lower() or kind == "Processor"
        if is_processor and (tree.number(f"{place}/cur_state") or 0) > 0:
            yield "the processor is being slowed down by heat"
            return


def _of_pi(tree: Tree) -> Iterator[str]:
    """A Raspberry Pi's flags. Source: its documentation of `vcgencmd get_throttled`."""
    places = tree.places("sys/devices/platform/soc*/soc*:firmware/get_throttled")
    flags = next((tree.number(place, 16) or 0 for place in places), 0)
    for bit, words in _PI_BITS.items():
        if flags >> bit & 1:
            yield f"{words} now"
        elif flags >> (bit + _PI_PAST) & 1:
            yield f"{words.replace('is ', 'was ')} since it was started"
