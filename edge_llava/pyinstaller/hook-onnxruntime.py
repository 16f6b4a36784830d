"""ONNX Runtime's libraries, execution providers among them. Stands in for the hook that PyInstaller brings."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("onnxruntime")
# only for its tools, which make and measure models
excludedimports = ["torch", "transformers", "onnx", "sympy", "matplotlib", "psutil", "cpuinfo", "coloredlogs"]
