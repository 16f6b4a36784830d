"""The processes that a launcher started for one run: which one this is, and what they agree on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import PartialState
from accelerate.utils import reduce


def n_devices() -> int:
    """Returns how many processes the launcher started for this run."""
    return int(_processes().num_processes)


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return bool(_processes().is_main_process)


def one_process_first() -> AbstractContextManager[None]:
    """The first process runs this block before the others do."""
    block: AbstractContextManager[None] = _processes().main_process_first()
    return block


def mean_over_processes(values: Sequence[float]) -> list[float]:
    """Returns the mean of each value over all processes, the same in all of them; every process must call it."""
    if n_devices() == 1:
        return list(values)
    means = reduce(torch.tensor(values, dtype=torch.float32, device=_processes().device), "mean")
    return [float(mean) for mean in means]


def _processes() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())
