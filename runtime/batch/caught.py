"""What code that is not ours raises on a thread of ours: kept, so that it hurts only the one whose code it is."""

from __future__ import annotations

from types import TracebackType


class Caught:
    """While inside, an exception ends the block and is kept instead of travelling on.

    Nothing else here catches everything: whoever uses this must hand the error to its owner.

    Attributes:
        error: What was raised; None if nothing was.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.error = error
        return True
