"""The KV cache's numbers, out of llama.cpp and back in."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp


def read_prefix(context: Any, sequence: int, n_positions: int, scratch: int) -> bytearray:
    """A copy of a sequence's first positions; empty if llama.cpp cannot give it.

    Args:
        context: llama.cpp's context.
        sequence: Which.
        n_positions: How many.
        scratch: An empty sequence, which marks the cells that are copied: llama.cpp copies whole sequences.
    """
    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_seq_cp(memory, sequence, scratch, 0, n_positions)
    try:
        return read_sequence(context, scratch)
    finally:
        llama_cpp.llama_memory_seq_rm(memory, scratch, 0, -1)


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
