"""What was computed before: in the KV cache, in memory, on disk."""
