"""Builds a backend of llama.cpp as a wheel of its own, which the installed llama-cpp-python loads when it runs.

    python packaging/backend_wheel.py vulkan dist     # dist/edge_llava_vulkan-0.3.36-py3-none-linux_x86_64.whl
    python packaging/backend_wheel.py rpc dist

Users need no compiler and no SDK for it, and one wheel serves all versions of Python. The source is that of the
installed llama-cpp-python, whose version the wheel demands, since backends of other versions are refused. Needed here:
pip, cmake, a C++ compiler, the package `build`; for Vulkan also glslc, and Vulkan's headers of version 1.3.275 or newer
(`--cmake=-DVulkan_INCLUDE_DIR=...` where the system's are older).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

BACKENDS = ("vulkan", "rpc", "cuda")
# a module without the CPU's backend, for any CPU, and nothing else of llama.cpp
_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU=OFF",
    "-DGGML_NATIVE=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_CURL=OFF",
)  # fmt: skip
_PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "edge-llava-{backend}"
version = "{version}"
description = "llama.cpp's {backend} backend for edge-llava, as a plug-in of llama-cpp-python {version}"
requires-python = ">=3.10"
license = "MIT"
dependencies = ["llama-cpp-python=={version}"]

[tool.setuptools]
packages = ["edge_llava_{backend}"]

[tool.setuptools.package-data]
edge_llava_{backend} = ["*"]
"""


def download_source(directory: Path) -> Path:
    """Downloads the source of the installed llama-cpp-python, and returns llama.cpp's directory in it."""
    package = f"llama-cpp-python=={version('llama-cpp-python')}"
    options = ["--no-deps", "--no-binary", ":all:", "--dest", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, package], check=True)
    (archive,) = directory.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(directory, filter="data")
    (found,) = directory.glob("*/vendor/llama.cpp")
    return found


def build_library(source: Path, backend: str, build: Path, cmake: Sequence[str]) -> Path:
    """Compiles the backend; minutes for Vulkan, most of them for shaders."""
    flags = [*_FLAGS, f"-DGGML_{backend.upper()}=ON", *cmake]
    subprocess.run(["cmake", "-S", str(source), "-B", str(build), *flags], check=True)
    jobs = str(os.cpu_count() or 1)  # make takes a bare --parallel to mean any number of compilers at once
    subprocess.run(["cmake", "--build", str(build), "--target", f"ggml-{backend}", "--parallel", jobs], check=True)
    (library,) = (path for path in build.rglob(f"*ggml-{backend}.*") if path.suffix in (".so", ".dylib", ".dll"))
    return library


def pack(library: Path, licence: Path, backend: str, directory: Path, out: Path) -> Path:
    """Makes the wheel."""
    package = directory / f"edge_llava_{backend}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f'"""llama.cpp\'s {backend} backend; edge-llava loads it."""\n')
    shutil.copy(library, package)
    shutil.copy(licence, directory / "LICENSE")
    text = _PROJECT.format(backend=backend, version=version("llama-cpp-python"))
    (directory / "pyproject.toml").write_text(text)
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, f"-C--build-option=--plat-name={platform}", str(directory)], check=True)
    (wheel,) = out.glob(f"edge_llava_{backend}-*.whl")
    return wheel


def main() -> None:
    """Builds one backend's wheel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("out", type=Path, help="directory of the wheel")
    parser.add_argument("--source", type=Path, help="llama.cpp's directory; default: downloaded")
    parser.add_argument("--build", type=Path, help="directory to compile in, which a second run continues")
    parser.add_argument("--cmake", action="append", default=[], metavar="FLAG", help="further flags of cmake")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = (given.source or download_source(directory)).resolve()
        library = build_library(source, given.backend, given.build or directory / "build", given.cmake)
        print(pack(library, source / "LICENSE", given.backend, directory / "wheel", given.out.resolve()))


if __name__ == "__main__":
    main()
