"""The tokens of a checkpoint as llama.cpp needs them: `reading` reads them, `gguf_vocabulary` writes them.

Two kinds: SentencePiece with byte fallback (LLaMA, Mistral, Yi, Phi-3) and byte-level BPE (Llama-3, Qwen2).
"""
