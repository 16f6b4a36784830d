"""Trains the demo checkpoint from scratch: its own tower and language model, then LLaVA's two stages."""
