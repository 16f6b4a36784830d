"""Every error that edge-llava raises on purpose.

    EdgeLlavaError                1   any other error of edge-llava's own
    |-- MissingExtra              3   a package of an optional extra is not installed
    |-- CheckpointError           4   the input is not a checkpoint that can be read
    |-- ConversionError           5   the checkpoint is valid, but making the bundle failed
    |-- BundleError               6   a bundle is missing, damaged, foreign or too new
    |-- ImageError                7   an image or an image embedding cannot be used
    |-- ContextOverflow           8   the prompt does not fit in the context
    |-- BackendError              9   llama.cpp, ggml or ONNX Runtime failed
    |-- DataError                10   training data that cannot be read or made
    |-- TrainingError            11   training failed or diverged; the last good checkpoint is kept
    |-- QueueFull                12   the queue for answers is full; try again later
    `-- TransferError            13   a bundle cannot be fetched or published: network, server, access or disk

The number is the exit code of the command line. A message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class EdgeLlavaError(Exception):
    """Base of the tree; catch it to catch everything that edge-llava raises on purpose."""

    exit_code = 1


class MissingExtra(EdgeLlavaError):
    """A package that belongs to an optional extra is not installed; the message contains the pip command."""

    exit_code = 3

    def __init__(self, extra: str, purpose: str, package: str) -> None:
        """
        Args:
            extra: Name of the extra that brings the package, for example "convert".
            purpose: What the caller wanted to do, as a gerund: "converting a checkpoint".
            package: The import name that was not found.
        """
        from edge_llava.home.installation import install_command  # its package knows these errors

        super().__init__(f"{purpose} needs the package {package!r}. Install it: {install_command(extra)}")
        self.extra = extra


class CheckpointError(EdgeLlavaError):
    """The input is not a checkpoint that this version can read."""

    exit_code = 4


class ConversionError(EdgeLlavaError):
    """Making the bundle failed; no incomplete bundle is left behind."""

    exit_code = 5


class BundleError(EdgeLlavaError):
    """A bundle is missing, damaged, edited, or of a newer format."""

    exit_code = 6


class ImageError(EdgeLlavaError):
    """An image cannot be read, or an image embedding does not belong to this bundle."""

    exit_code = 7


class ContextOverflow(EdgeLlavaError):
    """The prompt needs more positions than the context has; raised before any work is done."""

    exit_code = 8

    def __init__(self, n_needed: int, n_ctx: int, detail: str, advice: str) -> None:
        """
        Args:
            n_needed: Positions that the prompt and at least one answer token take.
            n_ctx: Positions that the context has.
            detail: What n_needed consists of.
            advice: What to do next.
        """
        super().__init__(f"the prompt needs {n_needed} positions ({detail}) and the context has {n_ctx}. {advice}")
        self.n_needed = n_needed
        self.n_ctx = n_ctx


class BackendError(EdgeLlavaError):
    """llama.cpp, ggml or ONNX Runtime refused or failed."""

    exit_code = 9


class DataError(EdgeLlavaError):
    """Training data cannot be read, or cannot be made; what was made before is kept."""

    exit_code = 10


class TrainingError(EdgeLlavaError):
    """Training failed or diverged; the last good checkpoint is kept."""

    exit_code = 11


class QueueFull(EdgeLlavaError):
    """The queue for answers is full; nothing was done."""

    exit_code = 12

    def __init__(self, n_inside: int, retry_after_s: float) -> None:
        """
        Args:
            n_inside: Answers that run or wait.
            retry_after_s: When a place is likely to be free, judging by how long answers have taken so far.
        """
        super().__init__(
            f"The queue is full ({n_inside} answers running or waiting). Try again in {retry_after_s:.0f} s."
        )
        self.n_inside = n_inside
        self.retry_after_s = retry_after_s


class TransferError(EdgeLlavaError):
    """A bundle cannot be fetched from a server or published on one; no incomplete bundle takes its name."""

    exit_code = 13


_MAX_FAULTS, _MAX_FAULT_CHARACTERS = 100, 1000  # of one message; a hostile file may have millions


def list_faults(headline: str, faults: Sequence[str], advice: str = "") -> str:
    """Formats all faults of one border check as one message: headline, one line per fault, advice."""
    lines = [headline, *(f"  - {fault[:_MAX_FAULT_CHARACTERS]}" for fault in faults[:_MAX_FAULTS])]
    if len(faults) > _MAX_FAULTS:
        lines.append(f"  - and {len(faults) - _MAX_FAULTS:,} more")
    if advice:
        lines.append(advice)
    return "\n".join(lines)
