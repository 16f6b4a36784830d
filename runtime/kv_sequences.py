"""Many conversations in one KV cache: what each sequence holds, what is shared, and what goes when cells run out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import llama_cpp

from edge_llava.runtime.conversation import Position, count_common


@dataclass(eq=False)
class KvSequence:
    """One of llama.cpp's sequences.

    Attributes:
        id: Its number in llama.cpp.
        positions: What each of its positions was computed from.
        is_busy: Whether an answer is being computed in it.
        last_used: Grows with every release: the smallest was not used for longest.
    """

    id: int
    positions: list[Position] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)  # a number of ours for each cell, to know the shared ones
    is_busy: bool = False
    last_used: int = 0


class KvSequences:
    """The sequences of a context with a unified KV cache: a shared beginning takes its cells once.

    A sequence that was released keeps its content, so that a conversation can go on, until its place is needed.

    Attributes:
        n_cells: Positions that the cache can hold, of all sequences together.
        n_evicted: Sequences whose content went to make room.
    """

    def __init__(self, memory: Any, n_sequences: int, n_cells: int) -> None:
        """
        Args:
            memory: llama.cpp's memory handle.
            n_sequences: As the context was made with.
            n_cells: As the context has.
        """
        self.n_cells, self.n_evicted = n_cells, 0
        self._memory = memory
        self._sequences = [KvSequence(id) for id in range(n_sequences)]
        self._holders = Counter[int]()  # of each cell
        self._new_cells = count()
        self._clock = count(1)

    @property
    def n_used(self) -> int:
        """Cells that hold something."""
        return len(self._holders)

    def count_known(self, wanted: Sequence[Position]) -> int:
        """Positions of a conversation that need not be computed; the last one always needs to be."""
        return max(count_common(sequence.positions, wanted[:-1]) for sequence in self._sequences)

    def claim(self, wanted: Sequence[Position]) -> KvSequence:
        """A sequence for a conversation, which begins with what any sequence has of it.

        Nobody loses more than must be: a conversation that ends where this one goes on is taken over; any other is
        shared, in an empty sequence, or in the one that was not used for longest.
        """
        found = {sequence: count_common(sequence.positions, wanted[:-1]) for sequence in self._sequences}
        source = max(found, key=lambda sequence: (found[sequence], not sequence.is_busy))
        n_common = found[source]
        idle = [sequence for sequence in self._sequences if not sequence.is_busy]
        if not source.is_busy and n_common == len(source.positions):
            target = source
        else:
            others = [sequence for sequence in idle if sequence is not source] or idle
            target = min(others, key=lambda sequence: (len(sequence.positions) > 0, sequence.last_used))
        self.truncate(target, n_common if target is source else 0)
        self.share(source, target, n_common)
        target.is_busy = True
        return target

    def release(self, sequence: KvSequence) -> None:
        """Its conversation is not being computed any more; what it holds may be of use to another."""
        sequence.is_busy, sequence.last_used = False, next(self._clock)

    def share(self, source: KvSequence, target: KvSequence, n_positions: int) -> None:
        """Lets `target` have the first positions of `source` beyond its own, which are the same; nothing is copied."""
        start = len(target.positions)
        if source is target or n_positions <= start:
            return
        llama_cpp.llama_memory_seq_cp(self._memory, source.id, target.id, start, n_positions)
        cells = source.cells[start:n_positions]
        target.positions += source.positions[start:n_positions]
        target.cells += cells
        self._holders.update(cells)

    def extend(self, sequence: KvSequence, positions: Sequence[Position]) -> None:
        """Notes positions that llama.cpp has computed."""
        cells = list(islice(self._new_cells, len(positions)))
        sequence.positions += positions
        sequence.cells += cells
        self._holders.update(cells)

    def truncate(self, sequence: KvSequence, n_positions: int) -> None:
        """Drops everything of a sequence from position `n_positions` on, also what a failed computation left there."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence.id, n_positions, -1)
        for cell in sequence.cells[n_positions:]:
            self._holders[cell] -= 1
            if not self._holders[cell]:
                del self._holders[cell]
        del sequence.positions[n_positions:], sequence.cells[n_positions:]

    def evict(self) -> bool:
        """Empties the idle sequence that was not used for longest.

        Returns:
            Whether there was one with content.
        """
        idle = [sequence for sequence in self._sequences if not sequence.is_busy and sequence.positions]
        if not idle:
            return False
        self.truncate(min(idle, key=lambda sequence: sequence.last_used), 0)
        self.n_evicted += 1
        return True
