"""Collects ONNX Runtime's libraries, including execution providers. Replaces PyInstaller's own hook."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("onnxruntime")
# only used by its tools, which make and profile models
excludedimports = ["torch", "transformers", "onnx", "sympy", "matplotlib", "psutil", "cpuinfo", "coloredlogs"]
