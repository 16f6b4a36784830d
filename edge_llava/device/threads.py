"""How many CPU threads to use by default, and which numbers are worth a try."""

from __future__ import annotations

import os
from pathlib import Path

from edge_llava.device.facts import count_cpus

_TOPOLOGY = Path("/sys/devices/system/cpu")
_BIG = 0.8  # of the strongest CPU: little cores lie far below, and one favoured core does not make the rest little


def count_cores() -> int:
    """Physical cores that this process may use; logical ones where the system does not distinguish them.

    Two threads on one core share its vector units, so matrix work gains nothing from the second.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    try:
        siblings = {(_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable}
    except OSError:
        return len(usable)
    return max(1, len(siblings))


def usable_threads(n_wanted: int | None) -> int:
    """Threads for a wish: the physical cores where there is none, and never more than the CPUs of this process.

    More threads than CPUs wait for each other: an answer takes minutes instead of seconds.
    """
    return count_cores() if n_wanted is None else min(n_wanted, count_cpus())


def thread_choices() -> list[int]:
    """Numbers of threads worth a measurement: the physical cores, the big ones among them, the logical ones.

    Big cores are distinguished from little ones by the capacity or the highest clock that Linux states.
    """
    n_cores = count_cores()
    return list(dict.fromkeys([n_cores, _count_big_cores() or n_cores, count_cpus()]))


def _count_big_cores() -> int | None:
    """Physical cores near the strongest one's speed; None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    for place in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            speeds = {cpu: int((_TOPOLOGY / f"cpu{cpu}" / place).read_text()) for cpu in os.sched_getaffinity(0)}
            big = [cpu for cpu, speed in speeds.items() if speed >= _BIG * max(speeds.values())]
            return len({(_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in big})
        except (OSError, ValueError):
            continue
    return None
