"""Collects what PyInstaller cannot see in edge_llava: modules that are imported by name on first use."""

from __future__ import annotations

from importlib.metadata import packages_distributions

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

# Conversion and training with their dependencies (the extras [convert] and [train]): gigabytes that apps do not use.
excludedimports = [
    "edge_llava.conversion",
    "edge_llava.converters",
    "edge_llava.training",
    *("torch", "transformers", "optimum", "onnx", "gguf", "sentencepiece", "huggingface_hub", "accelerate", "peft"),
]
hiddenimports = ["edge_llava.cli.selftest"]
for _room in ("edge_llava.runtime", "edge_llava.captioning", "edge_llava.selftest"):
    hiddenimports += collect_submodules(_room)
datas = collect_data_files("edge_llava.selftest")
# `edge-llava tune` stores its measurements by engine version, and llguidance looks for its own
for _package in ("edge_llava", "llama_cpp", "llguidance", "onnxruntime"):
    for _name in packages_distributions().get(_package, ()):  # onnxruntime, or onnxruntime-gpu
        datas += copy_metadata(_name)
