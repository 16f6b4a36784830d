"""Captions for a folder of images: one line each, resumable. It uses the runtime and never torch."""
