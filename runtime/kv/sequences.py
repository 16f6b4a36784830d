"""Many conversations in one KV cache: what each sequence holds, what is shared, and what goes when cells run out."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count, islice
from operator import itemgetter
from typing import Any

import llama_cpp

from edge_llava.runtime.kv.host_cache import HostCache, KeptConversation
from edge_llava.runtime.kv.sequence import KvSequence, MovingSequence
from edge_llava.runtime.runs import Position, count_common

_N_IDLE_CELLS = 256  # attention looks at every cell in use, of whichever conversation: idle ones slow all others
# positions; computing one takes as long as copying hundreds
_WORTH_KEEPING, _WORTH_RESTORING = 64, 16


class NoCells(Exception):
    """The KV cache has no room; nothing was computed. Never leaves the engine."""


class KvSequences:
    """The sequences of a context with a unified KV cache: a shared beginning takes its cells once.

    A released sequence keeps its content, so that its conversation can continue. While others are computed, or when
    cells run out, the content moves to the host cache.

    Attributes:
        n_cells: Positions that the cache can hold, of all sequences together.
        n_cells_max: As many as it may grow to.
        n_moves: How often what is held was moved to another context; some of it may have been lost.
        host: What it no longer holds.
    """

    def __init__(
        self,
        context: Any,
        n_sequences: int,
        n_cells: int,
        host: HostCache,
        n_cells_max: int | None = None,
        grow: Callable[[int], object] = lambda n_needed: None,
    ) -> None:
        """
        Args:
            context: Was made with one sequence more than `n_sequences`: the last is for copies.
            n_sequences, n_cells, host, n_cells_max: As the attributes; without a maximum, it does not grow.
            grow: Replaces the context by one of as many cells, if it can: it calls `take_out` and `put_in`.
        """
        self.n_cells, self.host, self.n_moves = n_cells, host, 0
        self.n_cells_max, self._grow = n_cells_max or n_cells, grow
        self._context, self._memory = context, llama_cpp.llama_get_memory(context)
        self._sequences = [KvSequence(id) for id in range(n_sequences)]
        self._scratch = n_sequences
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
        kept = self.host.find(wanted[:-1], salt)
        in_cache = (_count_shared(sequence, wanted, salt) for sequence in self._sequences)
        return max(*in_cache, kept[0] if kept else 0)

    def claim(self, wanted: Sequence[Position], salt: str = "", owner: int | None = None) -> KvSequence:
        """A sequence for a conversation, which begins with what is known of it.

        A conversation that ends where this one continues is taken over, as is what its owner had before and what a
        forgotten one left; any other is shared, in an empty sequence or the least recently used one.
        """
        found = {sequence: _count_shared(sequence, wanted, salt) for sequence in self._sequences}
        source = max(found, key=lambda s: (found[s], not s.is_busy, s.is_forgotten or _is_owned(s, owner)))
        n_common = found[source]
        can_be_cut = n_common == len(source.positions) or source.is_forgotten or _is_owned(source, owner)
        if not source.is_busy and can_be_cut:
            target = source
            if n_common < len(source.positions):
                self.truncate(source, n_common)
        else:
            idle = [sequence for sequence in self._sequences if not sequence.is_busy]
            others = [sequence for sequence in idle if sequence is not source] or idle
            target = min(others, key=lambda s: (not _is_owned(s, owner), bool(s.positions), s.last_used))
            self._put_away(target, n_common if target is source else 0, is_worth=not _is_owned(target, owner))
        target.is_busy, target.salt, target.owner, target.is_forgotten = True, salt, owner, False
        kept = self.host.find(wanted[:-1], salt)
        if kept is None or kept[0] < n_common + _WORTH_RESTORING or not self._restore(target, *kept):
            self.share(source, target, n_common)
        return target

    def restore(self, target: KvSequence, state: bytearray, positions: Sequence[Position]) -> bool:
        """Replaces what a sequence holds by a state of exactly these positions.

        Returns:
            Whether llama.cpp took it; if not, the sequence is empty.

        Raises:
            NoCells: If others need the room; the sequence is empty.
        """
        self.truncate(target, 0)
        if not self.make_room(len(positions)):
            raise NoCells
        return self._set(target, state, positions)

    def _set(self, target: KvSequence, state: bytearray, positions: Sequence[Position], n_before: int = 0) -> bool:
        """Puts a state of these positions, which follow `n_before` others, into an empty sequence, if llama.cpp can."""
        n_bytes = llama_cpp.llama_state_seq_set_data(self._context, _pointer(state), len(state), target.id)
        n_positions = int(llama_cpp.llama_memory_seq_pos_max(self._memory, target.id)) + 1
        if n_bytes != len(state) or n_positions != n_before + len(positions):
            self.truncate(target, 0)
            return False
        self.extend(target, positions)
        return True

    def copy_prefix(self, sequence: KvSequence, positions: Sequence[Position]) -> bytearray:
        """llama.cpp's copy of a sequence's first positions, for `restore`; empty if it begins otherwise."""
        if sequence.positions[: len(positions)] != list(positions):
            return bytearray()
        return self._copy_part(sequence, 0, len(positions))

    def _copy_part(self, sequence: KvSequence, start: int, stop: int) -> bytearray:
        # only whole sequences are copied: another one marks the cells
        llama_cpp.llama_memory_seq_cp(self._memory, sequence.id, self._scratch, start, stop)
        try:
            return self._copy(self._scratch)
        finally:
            llama_cpp.llama_memory_seq_rm(self._memory, self._scratch, 0, -1)

    def _copy(self, id: int) -> bytearray:
        """All positions of one of llama.cpp's sequences; empty if it cannot give them."""
        state = bytearray(llama_cpp.llama_state_seq_get_size(self._context, id))
        n_bytes = llama_cpp.llama_state_seq_get_data(self._context, _pointer(state), len(state), id)
        return state if n_bytes == len(state) else bytearray()

    def forget(self, owner: int) -> None:
        """An owner is gone: what its conversation holds may be used, but is not kept."""
        for sequence in self._sequences:
            if sequence.owner == owner:
                sequence.owner, sequence.is_forgotten = None, True
        self.host.forget(owner)

    def release(self, sequence: KvSequence, n_useful: int | None = None) -> None:
        """Its conversation is not being computed any more; what it holds may be of use to another.

        Its first `n_useful` positions, that is; None: all.
        """
        sequence.is_busy, sequence.last_used, self._is_tidy = False, next(self._clock), False
        if n_useful is not None and n_useful < len(sequence.positions):
            self.truncate(sequence, n_useful)

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
        for cell in cells:
            self._holders[cell] = 1

    def truncate(self, sequence: KvSequence, n_positions: int) -> None:
        """Drops everything of a sequence from position `n_positions` on, and what a failed computation left there."""
        self._is_tidy = False  # what it shared with another may be that one's alone now
        llama_cpp.llama_memory_seq_rm(self._memory, sequence.id, n_positions, -1)
        for cell in sequence.cells[n_positions:]:
            self._holders[cell] -= 1
            if not self._holders[cell]:
                del self._holders[cell]
        del sequence.positions[n_positions:], sequence.cells[n_positions:]

    def has_room(self, n_positions: int) -> bool:
        """Whether so many cells are free."""
        return self.n_cells - len(self._holders) >= n_positions

    def make_room(self, n_positions: int) -> bool:
        """Whether so many cells are free, after idle conversations have moved out, the least recently used first, and
        the cache has grown. It grows first where nothing can move out."""
        if not self.host.n_bytes_max:
            self._try_to_grow(n_positions)
        for sequence in self._idle():
            if self.has_room(n_positions):
                break
            self._put_away(sequence)
        self._try_to_grow(n_positions)
        return self.has_room(n_positions)

    def _try_to_grow(self, n_positions: int) -> None:
        if not self.has_room(n_positions) and self.n_cells < self.n_cells_max:
            self._grow(self.n_used + n_positions)

    def take_out(self) -> list[MovingSequence]:
        """What every sequence holds, before its context is freed; nothing is held until `put_in`.

        Raises:
            MemoryError: If there is too little memory for the copies; everything is as before.
        """
        held: list[MovingSequence] = []
        for sequence in sorted(self._sequences, key=lambda sequence: not sequence.is_busy):
            if sequence.positions:
                shares = ((count_common(sequence.cells, other.sequence.cells), other.sequence) for other in held)
                n_shared, source = max(shares, key=itemgetter(0), default=(0, None))
                state = self._copy_part(sequence, n_shared, len(sequence.positions))
                source = source if n_shared else None
                held.append(MovingSequence(sequence, list(sequence.positions), source, n_shared, state))
        for sequence in self._sequences:
            sequence.positions.clear()
            sequence.cells.clear()
        self._holders.clear()
        return held

    def put_in(self, context: Any, n_cells: int, held: list[MovingSequence]) -> None:
        """Moves what was taken out into a new context. What does not fit there has to be computed again.

        The list is empty afterwards: each copy is freed as soon as it has moved.
        """
        self._context, self._memory, self.n_cells = context, llama_cpp.llama_get_memory(context), n_cells
        self.n_moves += 1
        held.reverse()
        while held:
            self._put_in(held.pop())

    def _put_in(self, moving: MovingSequence) -> None:
        sequence, source, n_shared = moving.sequence, moving.source, moving.n_shared
        if source is not None and len(source.positions) < n_shared:  # it did not fit
            return
        own = moving.positions[n_shared:]
        if own and not (self.has_room(len(own)) and moving.state and self._set(sequence, moving.state, own, n_shared)):
            return
        if source is not None:  # a state takes the place of all that is in its sequence, so that this is last
            self._prepend(source, sequence, n_shared)

    def _prepend(self, source: KvSequence, target: KvSequence, n_positions: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source.id, target.id, 0, n_positions)
        cells = source.cells[:n_positions]
        target.positions[:0] = source.positions[:n_positions]
        target.cells[:0] = cells
        self._holders.update(cells)

    def tidy(self) -> None:
        """Moves idle conversations that slow others down out of the cache; what they share with these costs nothing."""
        if self._is_tidy:
            return
        n_own = {sequence: self._count_own(sequence) for sequence in self._idle()}
        for sequence in self._idle():
            if sum(n_own.values()) <= _N_IDLE_CELLS:
                break
            if sequence.is_forgotten or self.host.n_bytes_max:
                self._put_away(sequence)
                del n_own[sequence]
        self._is_tidy = True

    def _idle(self) -> list[KvSequence]:
        idle = [sequence for sequence in self._sequences if not sequence.is_busy and sequence.positions]
        return sorted(idle, key=lambda sequence: sequence.last_used)

    def _count_own(self, sequence: KvSequence, start: int = 0) -> int:
        return sum(self._holders[cell] == 1 for cell in sequence.cells[start:])

    def _put_away(self, sequence: KvSequence, n_left: int = 0, *, is_worth: bool = True) -> None:
        """Drops a sequence from position `n_left` on; the host cache gets a copy of what no other sequence holds."""
        is_worth = is_worth and not sequence.is_forgotten and self.host.n_bytes_max > 0
        is_worth = is_worth and self._count_own(sequence, n_left) >= _WORTH_KEEPING
        if is_worth and (state := self._copy(sequence.id)):
            self.host.put(KeptConversation(tuple(sequence.positions), state, sequence.salt, sequence.owner))
        self.truncate(sequence, n_left)

    def _restore(self, target: KvSequence, n_common: int, kept: KeptConversation) -> bool:
        """Puts a conversation from the host cache into a sequence; stays there, too, if this one continues another."""
        try:
            if not self.restore(target, kept.state, kept.positions):
                self.host.remove(kept)
                return False
        except NoCells:
            return False
        self.truncate(target, n_common)
        if n_common == len(kept.positions):
            self.host.remove(kept)
        return True


def _pointer(state: bytearray) -> Any:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)


def _is_owned(sequence: KvSequence, owner: int | None) -> bool:
    return owner is not None and sequence.owner == owner


def _count_shared(sequence: KvSequence, wanted: Sequence[Position], salt: str) -> int:
    """Positions that a conversation may share with a sequence: all but its last one, which must be computed."""
    return count_common(sequence.positions, wanted[:-1]) if sequence.salt == salt else 0
