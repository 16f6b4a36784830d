"""Conversations that wait for their next question, moved out of the KV cache: their state in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.runtime.runs import Position, count_common


@dataclass(frozen=True, eq=False)
class KeptConversation:
    """What the KV cache held for a conversation.

    Attributes:
        positions: What its positions were computed from.
        state: llama.cpp's copy of them.
        salt, owner: As in `KvSequence`.
    """

    positions: tuple[Position, ...]
    state: bytearray
    salt: str = ""
    owner: int | None = None


class HostCache:
    """Keeps the most recent conversations in at most so many bytes.

    Attributes:
        n_bytes_max: What it may hold; 0 keeps nothing.
    """

    def __init__(self, n_bytes_max: int) -> None:
        self.n_bytes_max = n_bytes_max
        self._kept: list[KeptConversation] = []  # the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_bytes(self) -> int:
        """What it holds."""
        return sum(len(kept.state) for kept in self._kept)

    def put(self, conversation: KeptConversation) -> None:
        """Keeps a conversation; forgets those that it continues, and the oldest ones that do not fit."""
        for kept in tuple(self._kept):
            is_beginning = kept.positions == conversation.positions[: len(kept.positions)]
            if is_beginning and kept.salt == conversation.salt:
                self._kept.remove(kept)
        self._kept.append(conversation)
        while self.n_bytes > self.n_bytes_max:
            del self._kept[0]

    def find(self, wanted: Sequence[Position], salt: str = "") -> tuple[int, KeptConversation] | None:
        """The conversation of a salt that shares the longest beginning, and the number of positions shared."""
        found = [(count_common(kept.positions, wanted), kept) for kept in self._kept if kept.salt == salt]
        return max(found, key=lambda pair: pair[0], default=None)

    def remove(self, conversation: KeptConversation) -> None:
        """Forgets a conversation, unless that has happened since it was found."""
        if conversation in self._kept:
            self._kept.remove(conversation)

    def forget(self, owner: int) -> None:
        """Forgets the conversations of an owner."""
        self._kept = [kept for kept in self._kept if kept.owner != owner]
