"""Captions on a Ray cluster: its actors hold the bundle, and this process reads the images and writes the lines.

Ray's actors and not Ray Data, because the lines must be written in order by one process, which resumes from them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_llava.captioning.asking import Asking, Said
from edge_llava.captioning.options import CaptionOptions
from edge_llava.captioning.prepared import Damaged, Ready
from edge_llava.errors import BackendError, BundleError, EdgeLlavaError, ImageError, MissingExtra
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

if TYPE_CHECKING:
    from edge_llava.runtime.options import EngineOptions

_CONNECT_S = 10.0
_MAX_RESTARTS = 10  # of one worker
_ERRORS = {kind.__name__: kind for kind in (BackendError, BundleError, ImageError)}


@dataclass(frozen=True)
class Task:
    """What every worker must have.

    Attributes:
        bundle: Where the bundle lies, on every machine of the cluster.
        settings: `CaptionOptions.digest` of the bundle here; that of a worker must be the same.
        options: What is asked.
        engine: How the engines of a worker are opened.
    """

    bundle: Path
    settings: str
    options: CaptionOptions
    engine: EngineOptions


@dataclass(frozen=True)
class Cluster:
    """Where the workers are.

    Attributes:
        address: Of the cluster's head, "HOST:PORT" or "ray://HOST:PORT"; "local" starts workers on this machine.
        n_workers: How many hold the bundle.
        n_cpus, n_gpus: What one of them takes, by Ray's count.
    """

    address: str
    n_workers: int
    n_cpus: float = 1.0
    n_gpus: float = 0.0


class ClusterAsking:
    """Asks the workers of a cluster; `with` ends them. An `Answerer`.

    A worker that dies is started again, with the bundle opened anew, and its questions are asked once more.

    Attributes:
        n_at_once: Questions that are on their way: enough that no worker waits for the next one.
    """

    def __init__(self, cluster: Cluster, task: Task) -> None:
        """
        Raises:
            MissingExtra: If Ray is not installed.
            BackendError: If the cluster cannot be reached, or the workers cannot be started.
            BundleError: If a worker cannot open the bundle, or has another one.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("cluster", "captioning on a Ray cluster", "ray") from error
        self._ray: Any = ray
        self.n_at_once = 2 * cluster.n_workers * task.engine.parallel
        local = cluster.address == "local"
        if not local:
            _check_reachable(cluster.address)
        try:
            ray.init(
                **({"num_cpus": cluster.n_workers * cluster.n_cpus} if local else {"address": cluster.address}),
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _unreachable(cluster.address, str(error)) from error
        make = ray.remote(_Worker).options(
            num_cpus=cluster.n_cpus,
            num_gpus=cluster.n_gpus,
            max_restarts=_MAX_RESTARTS,
            max_task_retries=-1,
            max_concurrency=task.engine.parallel,
        )
        self._busy: dict[Any, list[Any]] = {make.remote(task): [] for _ in range(cluster.n_workers)}
        with ExitStack() as started:
            started.callback(ray.shutdown)
            for worker in self._busy:
                self._get(worker.check.remote())
            started.pop_all()  # it keeps running unless a worker fails

    def __enter__(self) -> ClusterAsking:
        return self

    def __exit__(self, *unused: object) -> None:
        self._ray.shutdown()

    @property
    def process_ids(self) -> list[int]:
        """The process of each worker."""
        return [self._get(worker.process_id.remote()) for worker in self._busy]

    def prepare(self, ready: Ready, stop: threading.Event) -> Damaged | Ready:
        """Nothing: workers encode what they are asked about."""
        return ready

    def ask(self, ready: Ready) -> _Pending:
        """Asks the worker that has the least to do."""
        assert not isinstance(ready.image, ImageEmbedding)  # `prepare` makes none
        for worker, refs in self._busy.items():
            done = set(self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()
            self._busy[worker] = [ref for ref in refs if ref not in done]
        worker = min(self._busy, key=lambda one: len(self._busy[one]))
        ref = worker.answer.remote(np.asarray(ready.image.pixels), ready.sha256)
        self._busy[worker].append(ref)
        return _Pending(lambda: self._get(ref))

    def _get(self, ref: Any) -> Any:
        """What a worker replies.

        Raises:
            EdgeLlavaError: Of the worker; or if workers die again and again, which is no image's fault.
        """
        try:
            reply = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise EdgeLlavaError(
                f"the workers of the cluster fail: {lines[-1] if lines else type(error).__name__}. "
                "Once they work, run the same command again to resume."
            ) from error
        if isinstance(reply, _Failed):
            raise _ERRORS.get(reply.kind, ImageError)(reply.message)
        return reply


@dataclass(frozen=True)
class _Pending:
    """An answer of a worker; `result` waits for it."""

    result: Callable[[], Said]


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, reason: str) -> BackendError:
    return BackendError(f"no Ray cluster at {address}: {reason}. Give HOST:PORT of its head, or local.")


@dataclass(frozen=True)
class _Failed:
    """An error of ours, which may have no form that can be sent."""

    kind: str
    message: str


class _Worker:
    """An actor: one process of the cluster."""

    def __init__(self, task: Task) -> None:
        self._asking: Asking | None = None
        self._fault: _Failed | None = None
        try:
            self._asking = self._open(task)
        except EdgeLlavaError as error:  # not raised here: Ray would wrap it in its own words
            self._fault = _Failed(type(error).__name__, str(error))

    @staticmethod
    def _open(task: Task) -> Asking:
        from edge_llava.bundle.bundle import open_bundle
        from edge_llava.runtime.model import load

        bundle = open_bundle(str(task.bundle))
        engine = task.engine
        settings = task.options.digest(bundle.manifest, engine.visual_tokens, engine.alpha, engine.max_tiles)
        if settings != task.settings:
            raise BundleError(f"{task.bundle} is another bundle there than here. Copy the same one to each machine.")
        return Asking(load(bundle, engine), task.options)

    def check(self) -> _Failed | None:
        """Why the bundle cannot be opened; None if it is open."""
        return self._fault

    def answer(self, pixels: np.ndarray[Any, Any], sha256: str) -> Said | _Failed:
        """Answers about one image, of shape (H, W, 3), uint8."""
        if self._asking is None:
            return self._fault or _Failed("BackendError", "the worker has no bundle")
        try:
            return self._asking.ask(Ready(sha256, Image.open(pixels))).result()
        except EdgeLlavaError as error:
            return _Failed(type(error).__name__, str(error))

    def process_id(self) -> int:
        """This process."""
        import os

        return os.getpid()
