"""What code that is not ours raises on a thread of ours: kept, so that it hurts only the one whose code it is."""

from __future__ import annotations

from types import TracebackType


class Caught:
    """While inside, whatever is raised ends the block and is kept instead of travelling on.

    SystemExit, KeyboardInterrupt and the like, too: on a thread of ours they mean nothing but that foreign code has
    ended. Nothing else here catches everything: whoever uses this must hand the error to its owner.

    Attributes:
        error: What was raised; None if nothing was.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return error is not None
