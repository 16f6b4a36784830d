"""Captions images as they appear in folders, with the model kept open."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_llava.captioning.folder import FileFault
from edge_llava.captioning.job import CaptionJob
from edge_llava.captioning.reading import is_young
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.home.regular_file import sign

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel

INTERVAL_S = 2.0
_SEARCH_SHARE = 0.1  # of the time: a folder that is slow to search is searched less often

_Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Round:
    """What a look at the folders led to.

    Attributes:
        captioned: Names of the images that have a line now, and had none for their bytes before.
        faults: Files that could not be used, each told once as long as it stays as it is.
    """

    captioned: tuple[str, ...]
    faults: tuple[FileFault, ...]


class Watch:
    """Looks at a job's folders at intervals.

    An image is captioned when its size and time have not changed between two looks. A file that cannot be read, or ends
    early, is tried again until a minute has passed since it was changed; only then is it at fault. An image that is
    removed keeps its line.
    """

    def __init__(self, job: CaptionJob, interval_s: float = INTERVAL_S) -> None:
        """
        Args:
            job: A job whose options say `watch`.
            interval_s: Seconds between two looks, more where a look takes long.
        """
        self._job, self._interval_s = job, interval_s
        self._seen: dict[str, _Signature] = {}  # as of the last look
        self._settled: dict[str, _Signature] = {}  # captioned, or at fault
        self._search_faults: frozenset[FileFault] = frozenset()

    def rounds(
        self, model: LlavaModel, stop: threading.Event | None = None, progress: ProgressCallback = silent
    ) -> Iterator[Round]:
        """Watches until `stop` is set; yields after every round in which something happened.

        Args:
            model: The model that answers; it stays open.
            stop: Ends the watch, at the latest after the round that is being worked on.
            progress: Called while images are captioned.

        Raises:
            EdgeLlavaError: As `CaptionJob.caption`.
        """
        stop = threading.Event() if stop is None else stop
        while not stop.is_set():
            started = time.perf_counter()
            names, new_faults = self._look()
            seconds = time.perf_counter() - started
            captioned = self._caption(names, model, progress) if names else Round((), ())
            happened = Round(captioned.captioned, (*new_faults, *captioned.faults))
            if happened.captioned or happened.faults:
                yield happened
            stop.wait(max(self._interval_s, seconds / _SEARCH_SHARE))

    def _look(self) -> tuple[list[str], Sequence[FileFault]]:
        """The images that are complete and not captioned, as far as one can see; and what is newly at fault."""
        found = {name: _sign(self._job.path(name)) for name in self._job.look_again()}
        seen = {name: signature for name, signature in found.items() if signature is not None}
        still = [name for name, signature in seen.items() if self._seen.get(name) == signature]
        self._settled = {name: signature for name, signature in self._settled.items() if name in seen}
        self._seen = seen
        faults = frozenset(self._job.search_faults)
        new_faults = sorted(faults - self._search_faults, key=lambda fault: fault.path)
        self._search_faults = faults
        return [name for name in still if self._settled.get(name) != seen[name]], new_faults

    def _caption(self, names: Sequence[str], model: LlavaModel, progress: ProgressCallback) -> Round:
        self._job.forget_faults(set(names))
        self._job.todo = list(names)
        self._job.check()
        self._job.caption(model, progress)
        captioned = tuple(self._job.captioned)
        failed = {fault.path for fault in self._job.faults}.intersection(names).difference(captioned)
        unfinished = {name for name in failed if _may_change(self._job, name)}
        self._job.forget_faults(unfinished)
        self._settled |= {name: self._seen[name] for name in names if name not in unfinished}
        return Round(captioned, tuple(fault for fault in self._job.faults if fault.path in names))


def _may_change(job: CaptionJob, name: str) -> bool:
    """Whether a file that could not be used is still being written, or was removed."""
    try:
        return is_young(os.stat(job.path(name)))
    except OSError:
        return True


def _sign(path: os.PathLike[str]) -> _Signature | None:
    """What changes with a file's content; None if it has disappeared."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return sign(status)
