"""Instruction data: images with captions and boxes become conversations. The standard library, Pillow and httpx."""
