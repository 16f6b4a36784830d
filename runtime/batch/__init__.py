"""Many conversations at once: one thread computes all of them, step by step."""
