"""What an answer is read as: one token after another, with the text that became certain; and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]
AnswerStage = Literal["waiting", "encoding", "reading", "writing"]
_MIN_RATED_POSITIONS = 64  # the few before an image are computed far more slowly than the image


@dataclass(frozen=True)
class TokenLogprob:
    """A token that could have come next.

    Attributes:
        id: The token's id.
        piece: The bytes that it stands for; the name of a control token.
        logprob: The natural logarithm of its probability, before penalties, temperature and grammar.
    """

    id: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class Token:
    """One step of an answer.

    Attributes:
        id: The token's id; None only when the answer ended before another token came: cancelled, or failed.
        text: Text that became certain with it: "" while a character or a possible stop text is incomplete.
        finish_reason: None until the last one: "stop" (end of sequence or a stop text), "length", "cancelled", and
            "error", where `Answer.error` says why; a `Session` raises it instead.
        piece: The bytes that the token stands for, where `SamplingOptions.logprobs` asks for probabilities; empty for
            a control token.
        logprob: As `TokenLogprob.logprob`, of this token; None where it was not asked for.
        top_logprobs: The likeliest tokens at this place, the likeliest first; as many as were asked for.
    """

    id: int | None
    text: str
    finish_reason: FinishReason | None = None
    piece: bytes = b""
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Opened:
    """What is the same in all answers of a model.

    Attributes:
        load_s, vision_on, language_on: As in `Timings`.
    """

    load_s: float = 0.0
    vision_on: str | None = None
    language_on: str = "cpu"


@dataclass(frozen=True)
class Timings:
    """Where the time of one answer went. Seconds `_s`, counts of positions or tokens.

    Attributes:
        load_s: Opening the bundle (once per model, repeated in every answer).
        queued_s: From the question until the answer had a place among the running ones.
        vision_s, projector_s: Encoding images while this answer waited for them; 0 for embeddings that were made
            before, and for images whose positions were computed before.
        prefill_tokens, prefill_s: Positions computed before the first token, image rows included, and the time that
            computing them took; the time includes reading from disk, but not waiting for images.
        ttft_s: From the question to the first text.
        decode_tokens, decode_s: Tokens of the answer, and the time from the first to the last of them.
        cached_tokens: Positions of the prompt that were computed before: in the KV cache, in memory or on disk.
        peak_rss_bytes: Largest resident size of the process so far.
        vision_on: Where images are encoded, as `EngineOptions.vision_provider` without "auto"; None until one was.
        language_on: Where the language model's blocks are: "cpu", or a device and how many of them, "Vulkan0 33/33".
    """

    load_s: float
    queued_s: float
    vision_s: float
    projector_s: float
    prefill_tokens: int
    prefill_s: float
    ttft_s: float
    decode_tokens: int
    decode_s: float
    cached_tokens: int
    peak_rss_bytes: int
    vision_on: str | None
    language_on: str

    @property
    def position_s(self) -> float | None:
        """Seconds that a position of the prompt took; None where too few were computed to tell."""
        return _rate(self.prefill_s, self.prefill_tokens)


@dataclass(frozen=True)
class AnswerProgress:
    """A moment of an answer that is not over.

    Attributes:
        stage: What is being done. "waiting": other answers come first. "encoding": images, by the vision tower.
            "reading": the prompt is computed. "writing": its first token was sampled.
        n_images: Images that are being encoded, or will be.
        n_read: Positions of the prompt that are in the KV cache, whether they were computed now or before.
        n_prompt: Positions of the whole prompt, those of images among them.
        n_tokens: Tokens of the answer so far.
        n_computed, computed_s: Positions of the prompt that were computed for this answer, and the seconds that took.
    """

    stage: AnswerStage
    n_images: int
    n_read: int
    n_prompt: int
    n_tokens: int
    n_computed: int
    computed_s: float

    @property
    def position_s(self) -> float | None:
        """Seconds that a position of this prompt took; None where too few were computed to tell."""
        return _rate(self.computed_s, self.n_computed)


def _rate(seconds: float, n_positions: int) -> float | None:
    return seconds / n_positions if n_positions >= _MIN_RATED_POSITIONS else None
