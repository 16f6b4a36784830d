"""Ollama's API, translated into OpenAI's."""
