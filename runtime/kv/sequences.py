"""Many conversations in one KV cache: what each sequence holds, what is shared, and what goes when cells run out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import llama_cpp

from edge_llava.runtime.kv.host_cache import KeptConversation, KvShelf
from edge_llava.runtime.kv.state import read_sequence, write_sequence
from edge_llava.runtime.runs import Position, count_common

_N_IDLE_CELLS = 256  # attention looks at every cell in use, of whichever conversation: idle ones slow all others
# positions; computing one takes as long as copying hundreds
_WORTH_KEEPING, _WORTH_RESTORING = 64, 16


@dataclass(eq=False)
class KvSequence:
    """One of llama.cpp's sequences.

    Attributes:
        id: Its number in llama.cpp.
        positions: What each of its positions was computed from.
        is_busy: Whether an answer is being computed in it.
        last_used: Grows with every release: the smallest was not used for longest.
        salt: Of the conversation in it. Only conversations of the same salt share anything.
    """

    id: int
    positions: list[Position] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)  # a number of ours for each cell, to know the shared ones
    is_busy: bool = False
    last_used: int = 0
    salt: str = ""


class KvSequences:
    """The sequences of a context with a unified KV cache: a shared beginning takes its cells once.

    A sequence that was released keeps its content, so that its conversation can go on. While others are computed, or
    when cells run out, it is put away: on the shelf.

    Attributes:
        n_cells: Positions that the cache can hold, of all sequences together.
        shelf: What it does not hold any more.
    """

    def __init__(self, context: Any, n_sequences: int, n_cells: int, shelf: KvShelf) -> None:
        """
        Args:
            context: llama.cpp's context.
            n_sequences: As the context was made with.
            n_cells: As the context has.
            shelf: An empty one.
        """
        self.n_cells, self.shelf = n_cells, shelf
        self._context, self._memory = context, llama_cpp.llama_get_memory(context)
        self._sequences = [KvSequence(id) for id in range(n_sequences)]
        self._holders = Counter[int]()  # of each cell
        self._new_cells = count()
        self._clock = count(1)
        self._is_tidy = True

    @property
    def n_used(self) -> int:
        """Cells that hold something."""
        return len(self._holders)

    def count_known(self, wanted: Sequence[Position], salt: str = "") -> int:
        """Positions of a conversation that need not be computed; the last one always needs to be."""
        kept = self.shelf.find(wanted[:-1], salt)
        in_cache = (_count_shared(sequence, wanted, salt) for sequence in self._sequences)
        return max(*in_cache, kept[0] if kept else 0)

    def claim(self, wanted: Sequence[Position], salt: str = "") -> KvSequence:
        """A sequence for a conversation, which begins with what is known of it.

        Nobody loses more than must be: a conversation that ends where this one goes on is taken over; any other is
        shared, in an empty sequence, or in the one that was not used for longest.
        """
        found = {sequence: _count_shared(sequence, wanted, salt) for sequence in self._sequences}
        source = max(found, key=lambda sequence: (found[sequence], not sequence.is_busy))
        n_common = found[source]
        if not source.is_busy and n_common == len(source.positions):
            target = source
        else:
            idle = [sequence for sequence in self._sequences if not sequence.is_busy]
            others = [sequence for sequence in idle if sequence is not source] or idle
            target = min(others, key=lambda sequence: (len(sequence.positions) > 0, sequence.last_used))
            self._put_away(target, n_common if target is source else 0)
        target.is_busy, target.salt = True, salt
        kept = self.shelf.find(wanted[:-1], salt)
        if kept is None or kept[0] < n_common + _WORTH_RESTORING or not self._restore(target, *kept):
            self.share(source, target, n_common)
        return target

    def release(self, sequence: KvSequence) -> None:
        """Its conversation is not being computed any more; what it holds may be of use to another."""
        sequence.is_busy, sequence.last_used, self._is_tidy = False, next(self._clock), False

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
        self._is_tidy = False  # what it shared with another may be that one's alone now
        llama_cpp.llama_memory_seq_rm(self._memory, sequence.id, n_positions, -1)
        for cell in sequence.cells[n_positions:]:
            self._holders[cell] -= 1
            if not self._holders[cell]:
                del self._holders[cell]
        del sequence.positions[n_positions:], sequence.cells[n_positions:]

    def make_room(self, n_positions: int) -> bool:
        """Puts idle conversations away, those first that were not used for longest, until so many cells are free.

        Returns:
            Whether they are.
        """
        for sequence in self._idle():
            if self.n_cells - self.n_used >= n_positions:
                break
            self._put_away(sequence)
        return self.n_cells - self.n_used >= n_positions

    def tidy(self) -> None:
        """Puts idle conversations away that slow others down; what they share with these costs nothing."""
        if self._is_tidy:
            return
        n_own = {sequence: self._count_own(sequence) for sequence in self._idle()}
        for sequence in self._idle():
            if sum(n_own.values()) <= _N_IDLE_CELLS:
                break
            self._put_away(sequence)
            del n_own[sequence]
        self._is_tidy = True

    def _idle(self) -> list[KvSequence]:
        idle = [sequence for sequence in self._sequences if not sequence.is_busy and sequence.positions]
        return sorted(idle, key=lambda sequence: sequence.last_used)

    def _count_own(self, sequence: KvSequence, start: int = 0) -> int:
        return sum(self._holders[cell] == 1 for cell in sequence.cells[start:])

    def _put_away(self, sequence: KvSequence, n_left: int = 0) -> None:
        """Drops a sequence from position `n_left` on; the shelf gets a copy, if it is much that no other holds."""
        if self._count_own(sequence, n_left) >= _WORTH_KEEPING and (state := read_sequence(self._context, sequence.id)):
            self.shelf.put(KeptConversation(tuple(sequence.positions), state, sequence.salt))
        self.truncate(sequence, n_left)

    def _restore(self, target: KvSequence, n_common: int, kept: KeptConversation) -> bool:
        """Puts a conversation from the shelf into a sequence; stays there, too, if this one does not go on from it."""
        self.truncate(target, 0)
        if not self.make_room(len(kept.positions)):
            return False
        if write_sequence(self._context, kept.state, target.id) != len(kept.positions):
            self.shelf.remove(kept)
            return False
        self.extend(target, kept.positions)
        self.truncate(target, n_common)
        if n_common == len(kept.positions):
            self.shelf.remove(kept)
        return True


def _count_shared(sequence: KvSequence, wanted: Sequence[Position], salt: str) -> int:
    """Positions that a conversation may share with a sequence: all but its last one, which must be computed."""
    return count_common(sequence.positions, wanted[:-1]) if sequence.salt == salt else 0
