"""Many conversations at once over one bundle: what a server answers with."""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from types import TracebackType

from edge_llava.bundle.bundle import Bundle
from edge_llava.ggml.limits import MAX_SEQUENCES
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.runtime.dialogue.answer_start import AnswerStart
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.dialogue.messages import Prompt, RawPrompt, read_messages
from edge_llava.runtime.dialogue.past_turns import OnFull, check_on_full
from edge_llava.runtime.dialogue.planner import DialoguePlanner
from edge_llava.runtime.dialogue.shortening import DialogueShortener
from edge_llava.runtime.engine.answer import Answer, TokenCallback
from edge_llava.runtime.engine.image_queue import PictureQueue
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.engine.metrics import EngineMetrics
from edge_llava.runtime.engine.queue import JobQueue
from edge_llava.runtime.engine.worker import BatchWorker
from edge_llava.runtime.language.decoder import BatchDecoder
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.lifetime.gate import Gate
from edge_llava.runtime.options import EngineOptions, SamplingOptions, n_ctx
from edge_llava.runtime.runs import ImageRun, Run
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.images.opening import ImageSource
from edge_llava.runtime.vision.tower import Tower

_MAX_PARALLEL = MAX_SEQUENCES // 2  # as many conversations are remembered as run


class BatchEngine:
    """A bundle that answers many clients at a time. Thread-safe.

    One thread of its own computes all answers together, step by step, another encodes pictures. Conversations that
    begin alike share what was computed, and one that was answered is remembered, so that its next question goes on
    where it stopped. What a client sends as an earlier answer is recognized by its text.

    Attributes:
        bundle: What was opened.
        n_ctx: Positions that one conversation may take, its answer among them.
        on_full: What happens to a conversation that does not fit, as `Session.on_full`; "error" until it is replaced.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions | None = None,
        *,
        n_parallel: int = 4,
        n_queued: int = 16,
        n_positions: int | None = None,
        kept_bytes: int = 1 << 30,
        progress: ProgressCallback = silent,
    ) -> None:
        """
        Args:
            bundle: An opened bundle; its digests are compared at first use and remembered.
            options: Device settings; `decoder.n_ctx` is of one conversation.
            n_parallel: Answers that are computed at a time, 1 to 128.
            n_queued: Answers that may wait beside them.
            n_positions: What the KV cache holds, of all conversations together; None has room for `n_parallel` full
                ones. With less, the youngest answer gives way when it is full, and goes on later.
            kept_bytes: Memory for conversations that wait for their next question while others are computed: it goes
                on where it stopped, in milliseconds. The least recent are forgotten first.
            progress: Told the bytes read while digests are compared.

        Raises:
            BundleError: If a file is not what the manifest says, or pictures cannot be reduced as asked.
            BackendError: If the language model cannot start.
            ValueError: If a number is out of range.
        """
        options = options or EngineOptions()
        _check_numbers(n_parallel, n_queued, kept_bytes, n_positions, n_ctx(bundle.manifest.language, options.decoder))
        self._tower = Tower(bundle, options)
        bundle.verify_digests(trust_earlier=True, progress=progress)
        self.bundle = bundle
        self._n_parallel, self._n_queued = n_parallel, n_queued
        self._decoder = BatchDecoder(
            bundle.file("language"),
            bundle.manifest.language,
            options.decoder,
            n_parallel=n_parallel,
            n_cells=n_positions,
            kept_bytes=kept_bytes,
        )
        self.n_ctx = self._decoder.n_ctx
        self._planner = DialoguePlanner(bundle, self._decoder, self._tower, self.n_ctx)
        self.on_full: OnFull = "error"
        self._shortener = DialogueShortener(bundle, self._decoder, self._tower, self.n_ctx)
        self._queue = JobQueue(n_parallel, n_queued, self._decoder.abort)
        self._pictures = PictureQueue(self._tower.start, self._queue.wake)
        self._worker = BatchWorker(self._decoder, self._queue, self._pictures, self._planner.said, n_parallel)
        with ExitStack() as engines:
            engines.callback(self._decoder.close)
            engines.callback(self._tower.close)
            self._gate = Gate("this engine", self._queue.close, engines.pop_all().close)
        weakref.finalize(self, self._gate.abandon).atexit = False  # the gate itself sees to the end of the process
        self._thread = threading.Thread(
            target=_work, args=(self._gate, self._worker), name="edge-llava-batch", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> BatchEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_image(self, source: ImageSource) -> Image:
        """Decodes an image for a message: what `submit` does itself with other sources, for callers that want to do
        it elsewhere or sooner. Does not keep `close` waiting.

        Raises:
            ImageError: If it cannot be read.
        """
        return self._tower.open(source)

    def submit(
        self,
        prompt: Prompt,
        options: SamplingOptions,
        on_token: TokenCallback,
        *,
        on_full: OnFull | None = None,
        salt: str = "",
    ) -> Answer:
        """Asks for the answer to a conversation. Pictures are opened before this returns, and encoded later.

        Args:
            prompt: The conversation. Where its last message is the assistant's, the answer continues that. Or a text,
                which is continued as it is.
            options: How the answer is drawn.
            on_token: Told every token, on the engine's thread: it must return at once, since all others wait for it.
                What it raises ends this answer alone. The last token has a `finish_reason`.
            on_full: What happens if the conversation does not fit; None: what the engine's own `on_full` says.
            salt: Only conversations of the same salt share what was computed, text and images: from `n_cached_tokens`
                and timings, clients learn nothing about conversations of other salts.

        Raises:
            QueueFull: If as many answers run and wait as may.
            ContextOverflow: If the conversation does not fit.
            ImageError: If a picture cannot be read or an embedding belongs to another bundle.
            BackendError: If the grammar does not compile.
            ValueError: If the messages are not a conversation, or the options do not go with them.
            EdgeLlavaError: If the engine is closed, or was opened by the process that forked this one.
        """
        wanted = on_full or self.on_full
        check_on_full(wanted)
        with self._gate.inside():
            self._queue.check_room()
            runs, start, n_dropped = self._plan(prompt, options, wanted, salt)
            if start.ids and options.grammar is not None:
                raise ValueError("a grammar holds for a whole answer: it cannot continue one that the messages begin.")
            stops = options.stop if isinstance(prompt, RawPrompt) else (self._planner.template.stop, *options.stop)
            tokens = AnswerTokens(self._decoder, stops, options.max_new_tokens, keeps_space=start.keeps_space)
            n_image = sum(run.n_tokens for run in runs if isinstance(run, ImageRun))
            answer = Answer(
                sum(run.n_tokens for run in runs) + len(start.ids),
                n_image,
                on_token,
                on_cancel=lambda: self._queue.cancel(job),
                gate=self._gate,
            )
            answer.n_dropped = n_dropped
            job = Job(answer, runs, tokens, Sampler(options, self._decoder.vocabulary), start, salt=salt)
            with ExitStack() as undo:
                undo.callback(job.sampler.close)
                job.sampler.remember(start.ids)
                self._queue.put(job)
                undo.pop_all()
            return answer

    def _plan(
        self, prompt: Prompt, options: SamplingOptions, on_full: OnFull, salt: str
    ) -> tuple[list[Run], AnswerStart, int]:
        """Also how many earlier questions were dropped."""
        if isinstance(prompt, RawPrompt):
            return self._planner.plan_text(prompt.text), AnswerStart(keeps_space=True), 0
        dialogue = read_messages(prompt)
        n_exchanges = len(dialogue.exchanges)
        if on_full == "drop-oldest":
            dialogue = self._shortener.shorten(dialogue, options.max_new_tokens)
        runs = self._planner.plan(dialogue, salt)
        start = self._planner.plan_start(dialogue.answer_start, runs, salt)
        return runs, start, n_exchanges - len(dialogue.exchanges)

    @property
    def is_open(self) -> bool:
        """Whether it takes conversations: not after `close`, nor after a fault that ended its thread."""
        return not self._queue.is_closed and not self._gate.is_elsewhere

    @property
    def metrics(self) -> EngineMetrics:
        """What it is doing and has done."""
        done, sequences = self._worker.done, self._decoder.sequences
        return EngineMetrics(
            n_parallel=self._n_parallel,
            n_queued_max=self._n_queued,
            running=len(self._worker.running),
            queued=len(self._queue),
            answers_total=done.answers,
            cancelled_total=done.cancelled,
            failed_total=done.failed,
            refused_total=self._queue.n_refused,
            prompt_tokens_total=done.prompt_tokens,
            cached_tokens_total=done.cached_tokens,
            tokens_total=done.tokens,
            pictures_encoded_total=self._pictures.n_encoded,
            steps_total=done.steps,
            decode_seconds_total=done.decode_s,
            gave_way_total=done.gave_way,
            kv_positions=sequences.n_used,
            kv_positions_max=sequences.n_cells,
            kept_conversations=len(sequences.shelf),
            kept_bytes=sequences.shelf.n_bytes,
        )

    def close(self) -> None:
        """Ends running and waiting answers as cancelled and frees the engines; safe to call twice, from any thread.

        From within a token's callback, and from a signal handler that interrupts one of these methods, it returns at
        once, and the engines are freed when the last thread has left them. In a forked child it does nothing.
        """
        self._gate.close()


def _work(gate: Gate, worker: BatchWorker) -> None:
    with gate.visiting():
        worker.run()


def _check_numbers(n_parallel: int, n_queued: int, kept_bytes: int, n_positions: int | None, n_ctx: int) -> None:
    faults = []
    if not 1 <= n_parallel <= _MAX_PARALLEL:
        faults.append(f"n_parallel must be from 1 to {_MAX_PARALLEL}")
    if n_queued < 0:
        faults.append("n_queued must not be negative")
    if kept_bytes < 0:
        faults.append("kept_bytes must not be negative")
    if n_positions is not None and n_positions < n_ctx:
        faults.append(f"n_positions must be at least {n_ctx}, which is one conversation")
    if faults:
        raise ValueError("; ".join(faults))
