"""What one of llama.cpp's sequences holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_llava.runtime.runs import Position


@dataclass(eq=False)
class KvSequence:
    """One of llama.cpp's sequences.

    Attributes:
        id: Its number in llama.cpp.
        positions: What each of its positions was computed from.
        cells: A number for each cell, by which shared ones are recognized.
        is_busy: Whether an answer is being computed in it.
        last_used: Grows with every release: the smallest is the least recently used.
        salt: Of the conversation in it. Only conversations of the same salt share anything.
        owner: Whose conversation it is, for one that does not need its earlier content once it continues elsewhere;
            None: it may continue from any of its positions.
        is_forgotten: Whether its owner is gone: what it holds is not worth a copy.
    """

    id: int
    positions: list[Position] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    is_busy: bool = False
    last_used: int = 0
    salt: str = ""
    owner: int | None = None
    is_forgotten: bool = False


@dataclass(frozen=True)
class MovingSequence:
    """What a sequence holds while its context is replaced.

    Attributes:
        sequence: Which one.
        positions: As its own, all of them.
        source: Another one, taken out before, whose first cells it shares; None: it shares none.
        n_shared: How many of them.
        state: llama.cpp's copy of the others.
    """

    sequence: KvSequence
    positions: list[Position]
    source: KvSequence | None
    n_shared: int
    state: bytearray
