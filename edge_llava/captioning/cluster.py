"""Captions on a Ray cluster: its actors hold the bundle, and this process reads the images and writes the lines.

Ray's actors and not Ray Data, whose sources are read by the cluster's machines: the images are files of this one, are
checked here as without a cluster, and are sent as pixels. Ray Data also asks again without end, or gives up the whole
run, where an image ends its worker.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_llava.captioning.asking import Said
from edge_llava.captioning.cluster_worker import Failed, Task, Worker
from edge_llava.captioning.prepared import Damaged, Ready
from edge_llava.errors import BackendError, BundleError, EdgeLlavaError, ImageError, MissingExtra
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

_CONNECT_S = 10.0
_PLACE_S = 60.0  # in which the cluster must have room for the workers
_ERRORS = {kind.__name__: kind for kind in (BackendError, BundleError, ImageError)}


@dataclass(frozen=True)
class Cluster:
    """Where the workers are.

    Attributes:
        address: Of the cluster's head, "HOST:PORT" or "ray://HOST:PORT"; "local" starts workers on this machine.
        n_workers: How many hold the bundle.
        n_cpus, n_gpus: What one of them takes, by Ray's count. GPUs: a share of one, or a whole number.
    """

    address: str
    n_workers: int
    n_cpus: float = 1.0
    n_gpus: float = 0.0

    @property
    def needs(self) -> dict[str, float]:
        """What one worker takes, in Ray's names."""
        return {"CPU": self.n_cpus, **({"GPU": self.n_gpus} if self.n_gpus else {})}


@dataclass
class _Post:
    """A part of the cluster that is reserved for one worker.

    Attributes:
        index: Of the part.
        worker: Ray's handle of the worker that is there now.
        refs: Its answers that may not be complete.
    """

    index: int
    worker: Any
    refs: list[Any]


class ClusterAsking:
    """Asks the workers of a cluster; `with` ends them. An `Answerer`.

    In the place of a worker that ends, another one is started, and each of its questions is asked once more, alone: so
    only the image is at fault that ends two workers.

    Attributes:
        n_at_once: Questions that are on their way: enough that no worker waits for the next one.
    """

    def __init__(self, cluster: Cluster, task: Task) -> None:
        """
        Raises:
            MissingExtra: If Ray is not installed.
            BackendError: If the cluster cannot be reached or cannot place the workers.
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
        self._cluster, self._task = cluster, task
        with ExitStack() as started:
            started.callback(ray.shutdown)
            self._places: Any = ray.util.placement_group([cluster.needs] * cluster.n_workers)
            self._wait_for_room()
            self._posts = [_Post(index, self._start(index), []) for index in range(cluster.n_workers)]
            for post in self._posts:
                self._get(post.worker.check.remote())
            started.pop_all()  # it keeps running unless a worker fails

    def __enter__(self) -> ClusterAsking:
        return self

    def __exit__(self, *unused: object) -> None:
        self._ray.shutdown()

    @property
    def process_ids(self) -> list[int]:
        """The process of each worker."""
        return [self._get(post.worker.process_id.remote()) for post in self._posts]

    def prepare(self, ready: Ready, stop: threading.Event) -> Damaged | Ready:
        """Nothing: workers encode what they are asked about."""
        return ready

    def ask(self, ready: Ready) -> _Pending:
        """Asks the worker that has the least to do."""
        for post in self._posts:
            done = set(self._ray.wait(post.refs, num_returns=len(post.refs), timeout=0)[0]) if post.refs else set()
            post.refs = [ref for ref in post.refs if ref not in done]
        post = min(self._posts, key=lambda one: len(one.refs))
        worker, ref = post.worker, self._send(post, ready)
        return _Pending(lambda: self._answer(post, worker, ref, ready))

    def _send(self, post: _Post, ready: Ready) -> Any:
        assert not isinstance(ready.image, ImageEmbedding)  # `prepare` makes none
        ref = post.worker.answer.remote(np.asarray(ready.image.pixels), ready.sha256)
        post.refs.append(ref)
        return ref

    def _answer(self, post: _Post, worker: Any, ref: Any, ready: Ready) -> Any:
        """The answer to a question that was sent, or to the same question asked once more.

        Raises:
            EdgeLlavaError: Of the worker; BackendError if two workers ended.
        """
        try:
            return self._read(ref)
        except self._ray.exceptions.RayError:
            self._replace(post, worker)
        if others := [ref for one in self._posts for ref in one.refs]:
            self._ray.wait(others, num_returns=len(others))  # one of them may have ended the worker, or end it now
        worker = post.worker
        try:
            self._read(worker.check.remote())
        except self._ray.exceptions.RayError:
            self._replace(post, worker)
        worker, ref = post.worker, self._send(post, ready)
        try:
            return self._read(ref)
        except self._ray.exceptions.RayError as error:
            self._replace(post, worker)
            raise BackendError(f"two workers ended while they answered about it: {_line(error)}") from error

    def _start(self, index: int) -> Any:
        """A worker in a part of the cluster."""
        place = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(self._places, index)
        make = self._ray.remote(Worker).options(
            num_cpus=self._cluster.n_cpus,
            num_gpus=self._cluster.n_gpus,
            max_concurrency=self._task.engine.parallel,
            scheduling_strategy=place,
        )
        return make.remote(self._task)

    def _replace(self, post: _Post, worker: Any) -> None:
        """Starts another worker in the place of one that ended.

        Raises:
            EdgeLlavaError: If it cannot be started, which is not the image's fault.
        """
        if post.worker is not worker:  # it has been replaced since
            return
        self._ray.kill(worker)  # it may only be out of reach
        try:
            self._wait_for_room()
            post.worker, post.refs = self._start(post.index), []
            self._get(post.worker.check.remote())
        except EdgeLlavaError as error:
            said = f"a worker of the cluster ended, and no other took its place: {error}"
            raise EdgeLlavaError(f"{said} Run the same command again to resume.") from error

    def _wait_for_room(self) -> None:
        """
        Raises:
            BackendError: If the cluster does not have what the workers take.
        """
        if self._places.wait(_PLACE_S):
            return
        cluster, there, free = self._cluster, self._ray.cluster_resources(), self._ray.available_resources()
        each = " each" if cluster.n_workers > 1 else ""
        raise BackendError(
            f"the Ray cluster at {cluster.address} had no room within {_PLACE_S:.0f} s for "
            f"{_plural(cluster.n_workers, 'worker')} with {_count(cluster.needs)}{each}. It has {_count(there)}, of "
            f"which {_count(free)} are free. Choose fewer workers (--ray-workers), CPUs (-t) or GPUs (--ray-gpus)."
        )

    def _get(self, ref: Any) -> Any:
        """As `_read`, where a worker that ends is not the image's fault.

        Raises:
            EdgeLlavaError: Of the worker, or of Ray.
        """
        try:
            return self._read(ref)
        except self._ray.exceptions.RayError as error:
            raise EdgeLlavaError(f"a worker of the cluster failed: {_line(error)}") from error

    def _read(self, ref: Any) -> Any:
        """What a worker replies.

        Raises:
            EdgeLlavaError: Of the worker.
            RayError: If the worker ended.
        """
        reply = self._ray.get(ref)
        if isinstance(reply, Failed):
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


def _line(error: Exception) -> str:
    """The last line of what Ray says, which is the most exact one, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".") + "."


def _count(resources: dict[str, float]) -> str:
    """CPUs and GPUs, of Ray's count of all things."""
    return " and ".join(_plural(resources.get(name, 0.0), name) for name in ("CPU", "GPU"))


def _plural(n: float, noun: str) -> str:
    return f"{n:g} {noun}" if n == 1 else f"{n:g} {noun}s"


def _unreachable(address: str, reason: str) -> BackendError:
    return BackendError(f"no Ray cluster at {address}: {reason}. Give HOST:PORT of its head, or local.")
