"""Integers between two bounds, as GBNF: what begins alike is written once, digit by digit."""

from __future__ import annotations

_MORE = 15  # digits that an integer without a bound may have beside its first


def integer_rule(low: int | None, high: int | None) -> str:
    """An expression that matches the integers from low to high, without leading zeros; None is no bound.

    Args:
        low, high: Of at most 15 digits each; low is not above high.
    """
    parts = []
    if low is None or low < 0:
        # the negative ones by their magnitude: from 1, or from what is left of it above `high`
        smallest = 1 if high is None or high >= 0 else -high
        largest = None if low is None else -low
        parts.append(f'"-" ({_from_to(smallest, largest)})')
    if high is None or high >= 0:
        parts.append(_from_to(max(low or 0, 0), high))
    return " | ".join(parts)


def _from_to(low: int, high: int | None) -> str:
    """Integers from low, at least 0, to high."""
    if high is None:
        n_digits = len(str(low))
        within = _from_to(low, 10**n_digits - 1)
        return f"{within} | [1-9] [0-9]{{{n_digits},{_MORE}}}"
    parts = []
    while low <= high:
        top = min(high, 10 ** len(str(low)) - 1)
        parts.append(_same_length(str(low), str(top)))
        low = top + 1
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """Integers of equally many digits."""
    if len(low) == 1:
        return _digit(low, high)
    rest, zeros, nines = len(low) - 1, "0" * (len(low) - 1), "9" * (len(low) - 1)
    if low[0] == high[0]:
        if low[1:] == zeros and high[1:] == nines:
            return f"{_digit(low[0], low[0])} [0-9]{{{rest}}}"
        return f"{_digit(low[0], low[0])} ({_same_length(low[1:], high[1:])})"
    parts, first, last = [], int(low[0]), int(high[0])
    if low[1:] != zeros:
        parts.append(_same_length(low, low[0] + nines))
        first += 1
    tail = None
    if high[1:] != nines:
        tail = _same_length(high[0] + zeros, high)
        last -= 1
    if first <= last:
        parts.append(f"{_digit(str(first), str(last))} [0-9]{{{rest}}}")
    return " | ".join([*parts, tail] if tail else parts)


def _digit(low: str, high: str) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"
