"""What PyInstaller cannot see of edge_llava: modules that are imported by name when they are first used."""

from __future__ import annotations

from importlib.metadata import packages_distributions

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

# What makes bundles, and what that needs (the extras [convert] and [train]): gigabytes that an app does not use.
excludedimports = [
    "edge_llava.conversion",
    "edge_llava.converters",
    "edge_llava.training",
    *("torch", "transformers", "optimum", "onnx", "gguf", "sentencepiece", "huggingface_hub", "accelerate", "peft"),
]
hiddenimports = ["edge_llava.cli.selftest"]
for _room in ("edge_llava.runtime", "edge_llava.captioning", "edge_llava.selftest"):
    hiddenimports += collect_submodules(_room)
# `edge-llava tune` keeps its measurements by the engines' versions
datas = []
for _package in ("edge_llava", "llama_cpp", "onnxruntime"):
    for _name in packages_distributions().get(_package, ()):  # onnxruntime, or onnxruntime-gpu
        datas += copy_metadata(_name)
