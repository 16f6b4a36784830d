"""The KV cache's numbers, out of llama.cpp and back in."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp

N_SEQUENCES = 2  # the conversation, and the one below; both share all cells of the cache
_CONVERSATION, _PREFIX = 0, 1  # _PREFIX marks the cells that are copied, since llama.cpp copies whole sequences


def read_state(context: Any, n_positions: int) -> bytearray:
    """A copy of the conversation's first positions; empty if llama.cpp cannot give it."""
    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_seq_cp(memory, _CONVERSATION, _PREFIX, 0, n_positions)
    try:
        return read_sequence(context, _PREFIX)
    finally:
        llama_cpp.llama_memory_seq_rm(memory, _PREFIX, 0, -1)


def write_state(context: Any, state: bytearray) -> int:
    """Replaces the whole KV cache by what `read_state` gave.

    Returns:
        Positions that the conversation has now; 0 if llama.cpp refused the state, and the cache is empty.
    """
    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_clear(memory, False)  # so that cells are taken from the first on, as when computing
    return write_sequence(context, state, _CONVERSATION)


def read_sequence(context: Any, sequence: int) -> bytearray:
    """A copy of all positions of a sequence; empty if llama.cpp cannot give it."""
    state = bytearray(llama_cpp.llama_state_seq_get_size(context, sequence))
    n_bytes = llama_cpp.llama_state_seq_get_data(context, _pointer(state), len(state), sequence)
    return state if n_bytes == len(state) else bytearray()


def write_sequence(context: Any, state: bytearray, sequence: int) -> int:
    """Replaces a sequence by what `read_sequence` gave; it takes cells that are free.

    Returns:
        Positions that it has now; 0 if llama.cpp refused the state, and the sequence is empty.
    """
    memory = llama_cpp.llama_get_memory(context)
    n_bytes = llama_cpp.llama_state_seq_set_data(context, _pointer(state), len(state), sequence)
    if n_bytes != len(state):
        llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
    return int(llama_cpp.llama_memory_seq_pos_max(memory, sequence)) + 1


def _pointer(state: bytearray) -> Any:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
