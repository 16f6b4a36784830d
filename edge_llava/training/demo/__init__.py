"""The demo checkpoint from nothing: a tower and a language model of its own, then LLaVA's two stages."""
