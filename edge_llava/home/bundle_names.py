"""What a user who typed a part of a bundle's name meant, or nearly typed it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from edge_llava.errors import BundleError

_MAX_SUGGESTIONS = 3
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def match_beginning(typed: str, names: Sequence[str]) -> str | None:
    """The only one of the names that begins like what was typed, in any case; None if no name does.

    Raises:
        BundleError: If several names do.
    """
    if not _PLAIN.fullmatch(typed):  # a path, or nothing that names begin with
        return None
    found = [name for name in names if name.casefold().startswith(typed.casefold())]
    if len(found) > 1:
        raise BundleError(
            f"several bundles begin with {typed!r}: {', '.join(found)}. Type more of the name that you mean."
        )
    return found[0] if found else None


def suggest_names(typed: str, names: Sequence[str]) -> str:
    """A sentence with the names that resemble what was typed, and a space after it; empty if none does.

    A name resembles it if it contains all of its words ("llava:7b" suggests "llava-1.5-7b-hf-q4_k_m"), or is spelled
    almost the same.
    """
    by_folded = {name.casefold(): name for name in names}
    words = re.findall(r"[a-z0-9.]+", typed[:200].casefold())
    found = [folded for folded in by_folded if words and all(word in folded for word in words)]
    near = found or difflib.get_close_matches(typed[:200].casefold(), by_folded, n=_MAX_SUGGESTIONS)
    quoted = [repr(by_folded[folded]) for folded in near[:_MAX_SUGGESTIONS]]
    return f"Did you mean {' or '.join(quoted)}? " if quoted else ""
