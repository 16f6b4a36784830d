"""Captions for a folder of pictures: one line each, resumable. Knows the runtime, never torch."""
