"""Checkpoint in, bundle out. May import torch, transformers, optimum, onnx, safetensors and gguf; see `pipeline`."""
