"""Captures exceptions from user callbacks so that they fail one answer, not the engine."""

from __future__ import annotations

from types import TracebackType


class Caught:
    """While inside, whatever is raised ends the block and is kept instead of travelling on.

    This includes SystemExit and KeyboardInterrupt: on one of our threads they only mean that the callback has ended.
    Nothing else catches everything: the code that uses this must hand the error to the answer it belongs to.

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
