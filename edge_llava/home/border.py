"""One rule for every border at which a file of unknown origin is read: what fails there is the fault of that file.

A parser may raise anything on a damaged file: its own errors, AttributeError, OverflowError, RecursionError. A list of
exceptions per reader is never complete, so that readers use this instead of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_llava.device.memory import is_out_of_memory
from edge_llava.errors import EdgeLlavaError

_SHOWN_CHARACTERS = 300  # of a parser's own message, which may quote the file


@contextmanager
def blaming_file(kind: type[EdgeLlavaError], what: object, advice: str, verdict: str = "is damaged") -> Iterator[None]:
    """While inside, every exception but our own becomes `kind`; only for code that reads the one file.

    Args:
        kind: Error class of this border.
        what: The file, for the message.
        advice: What to do next, a sentence; or nothing.
        verdict: What the file then is, for the message.

    Raises:
        kind: If anything but an EdgeLlavaError was raised inside.
    """
    try:
        yield
    except EdgeLlavaError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            reason = "needs more memory than there is: it is damaged or too large"
            raise kind(f"{what} {reason}. {advice}".rstrip()) from error
        if isinstance(error, OSError):
            raise kind(f"{what} cannot be read: {error.strerror or error}. {advice}".rstrip()) from error
        line = next(iter(str(error).splitlines()), "").strip().rstrip(".")
        reason = line[:_SHOWN_CHARACTERS] or type(error).__name__
        raise kind(f"{what} {verdict}: {reason}. {advice}".rstrip()) from error
