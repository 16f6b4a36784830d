"""The engine: one thread computes all answers of a model, step by step."""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from dataclasses import replace

from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.engine.answer import ENGINE_THREAD, Answer, TokenCallback
from edge_llava.runtime.engine.disk_prefixes import DiskPrefixes
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.engine.kv_size import first_positions
from edge_llava.runtime.engine.metrics import EngineMetrics
from edge_llava.runtime.engine.queue import JobQueue
from edge_llava.runtime.engine.step import StepSize
from edge_llava.runtime.engine.worker import Worker
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.lifetime.gate import Gate
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.request import Request
from edge_llava.runtime.vision.tower import Tower


class Engine:
    """Answers many conversations at a time over one bundle. Thread-safe.

    Conversations that begin alike share what was computed, and one that was answered is remembered, so that its next
    question continues where it stopped.

    Attributes:
        language: Its tokenizer; only the engine's thread computes with it.
        gate: Says which threads use the engine, and frees it.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions, tower: Tower, store: PrefixStore | None) -> None:
        """
        Args:
            bundle: Its digests are not checked here.
            options: Device settings.
            tower: Encodes images; closed with the engine.
            store: Where computed beginnings of conversations are kept on disk; None keeps none.

        Raises:
            BundleError: If language.gguf is not what the manifest says.
            BackendError: If the language model cannot start.
        """
        self._tower, manifest = tower, bundle.manifest
        self._done = EngineMetrics(options.parallel, options.n_queued)
        decoder = Decoder(
            bundle.file("language"),
            manifest.language,
            options.decoder,
            n_parallel=options.parallel,
            n_cells=options.n_positions,
            n_first=first_positions(manifest, options),
            host_bytes=options.host_bytes,
        )
        self.language = decoder
        with ExitStack() as opened:
            opened.callback(decoder.close)
            opened.callback(tower.close)
            self._queue = queue = JobQueue(options.parallel, options.n_queued, decoder.abort)
            disk = DiskPrefixes(store, manifest.files["language"].sha256, decoder, queue.wake)
            opened.callback(disk.close)
            size = StepSize(decoder.n_batch, options.max_pause_s)
            self._worker = Worker(decoder, queue, tower, disk, self._done, size)

            def stop() -> None:  # knows nothing of this engine: where it is dropped, the gate stops it
                queue.close()
                disk.stop()

            self.gate = Gate("this model", stop, opened.pop_all().close)
        weakref.finalize(self, self.gate.abandon).atexit = False  # the gate itself sees to the end of the process
        self._thread = threading.Thread(target=_work, args=(self.gate, self._worker), name=ENGINE_THREAD, daemon=True)
        self._thread.start()

    def check_room(self, *, is_preparation: bool = False) -> None:
        """Raises QueueFull if a request would be refused now, EdgeLlavaError if the engine is closed."""
        self._queue.check_room(is_preparation=is_preparation)

    def submit(self, request: Request, on_token: TokenCallback) -> Answer:
        """Asks for an answer; images are encoded where their rows are needed.

        Args:
            request: What to answer.
            on_token: Called with every token, on the engine's thread: it must return at once, since all other answers
                wait for it. What it raises ends this answer alone. The last token has a `finish_reason`.

        Raises:
            QueueFull: If as many answers run and wait as may.
            BackendError: If the grammar does not compile.
            ValueError: If the options do not go with the model.
            EdgeLlavaError: If the engine is closed, or was opened by the process that forked this one.
        """
        with self.gate.inside():
            options = request.options
            tokens = AnswerTokens(
                self.language, request.stops, options.max_new_tokens, keeps_space=request.start.keeps_space
            )
            answer = Answer(request, tokens, on_token, self.gate)
            job = Job(request, answer, Sampler(options, self.language))
            # they keep the engine until the answer is over, also where its model is dropped
            answer.connect(lambda: self._queue.cancel(job), lambda: self._queue.release(job))
            with ExitStack() as undo:
                undo.callback(self._undo, job)
                job.sampler.remember(request.start.ids)
                self._queue.put(job)
                undo.pop_all()
            return answer

    def _undo(self, job: Job) -> None:
        """Ends a job whose submission was interrupted, wherever it is."""
        if job.number:
            self._queue.cancel(job)
        else:
            job.sampler.close()

    def forget(self, owner: int) -> None:
        """The owner of conversations is gone, see `Request.owner`; safe to call anywhere."""
        self._worker.forgotten.append(owner)

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: not after `close`, nor after a fault that ended its thread."""
        return not self._queue.is_closed and not self.gate.is_elsewhere

    @property
    def metrics(self) -> EngineMetrics:
        """What it is doing and has done."""
        sequences = self.language.sequences
        return replace(
            self._done,
            running=sum(not job.is_preparation for job in tuple(self._worker.running)),
            queued=len(self._queue),
            refused_total=self._queue.n_refused,
            images_encoded_total=self._tower.n_encoded,
            kv_positions=sequences.n_used,
            kv_positions_max=sequences.n_cells_max,
            kept_conversations=len(sequences.host),
            kept_bytes=sequences.host.n_bytes,
        )

    def close(self) -> None:
        """Ends running and waiting answers as cancelled and frees everything; from any thread, see `Gate.close`."""
        self.gate.close()


def _work(gate: Gate, worker: Worker) -> None:
    with gate.visiting():
        worker.run()
