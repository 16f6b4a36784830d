"""How many CPU threads to use by default, and which numbers are worth a try."""

from __future__ import annotations

from edge_llava.device.control_group import read_control_group
from edge_llava.device.cores import this_cores
from edge_llava.device.facts import count_cpus
from edge_llava.device.tree import Tree


def default_threads() -> int:
    """The big physical cores of this process, but no more than its control group has CPU time for.

    Threads wait for each other: one that the system holds back, or that is on a little core, holds back all.
    """
    return read_control_group(Tree()).at_most(this_cores().n_big)


def usable_threads(n_wanted: int | None) -> int:
    """Threads for a wish: the default number where there is none, and never more than the CPUs of this process.

    More threads than CPUs wait for each other: an answer takes minutes instead of seconds.
    """
    return default_threads() if n_wanted is None else min(n_wanted, count_cpus())


def thread_choices() -> list[int]:
    """Numbers of threads worth a measurement: the big physical cores, all of them, the logical ones."""
    cores, group = this_cores(), read_control_group(Tree())
    return list(dict.fromkeys(group.at_most(n) for n in (cores.n_big, cores.n_all, count_cpus())))
