"""The border between strangers' files and this room: whatever a reader raises on a file is that file's fault.

Every reader has exceptions of its own, and none lists them. Only what parses stands inside; our own decisions do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_llava.errors import CheckpointError
from edge_llava.memory import is_out_of_memory

_MAX_REASON = 300  # characters


@contextmanager
def blame(path: Path, verdict: str, advice: str = "Download it again.") -> Iterator[None]:
    """Translates every exception raised inside to `<path> <verdict>: <reason>. <advice>`.

    Args:
        path: The file that is read.
        verdict: What it then is: "cannot be read".
        advice: What to do next.

    Raises:
        CheckpointError: For whatever was raised; one that was raised inside passes unchanged.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise CheckpointError(f"{path} needs more memory than there is: it is damaged or too large.") from error
        reason = next(iter(str(error).splitlines()), "").strip().rstrip(".") or type(error).__name__
        raise CheckpointError(f"{path} {verdict}: {reason[:_MAX_REASON]}. {advice}".rstrip()) from error
