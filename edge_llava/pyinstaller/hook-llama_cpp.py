"""Collects llama.cpp's libraries, which llama_cpp opens by path."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("llama_cpp")
# only used for tokenizers from the hub
excludedimports = ["transformers", "huggingface_hub", "torch"]
