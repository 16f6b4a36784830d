"""Installs requirements into the environment whose Python runs this, and says before how much that downloads.

    .venv/bin/python packaging/install.py --constraint constraints.txt --editable '.[cpu,convert]'

All other arguments are those of `pip install`. The usual wheels of torch for Linux bring gigabytes of CUDA. Unless
--cuda is given, torch is taken from PyTorch's index of builds for CPUs instead: from --torch-index, or by uv, which
knows where it is. If neither works, nothing else is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CUDA = re.compile(r"(nvidia|cuda)-.*|triton")  # what torch's wheels with CUDA require, by normalized names
_AMX_FLAGS = "-DCMAKE_CXX_FLAGS=-fno-dse"  # GCC before 12.4 and 13.3 compiles AMX wrongly without it (its bug 114098)
_PIP = 23  # the first major version that writes reports
_TIMEOUT_S = 10
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Package:
    """A package that pip would install.

    Attributes:
        name: Normalized, as in "nvidia-cublas".
        url: Where pip gets it: `https:`, or `file:` for wheels on this disk and for directories.
        size: Bytes of the file that is downloaded; 0 for a directory, None if the server does not say.
    """

    name: str
    url: str
    size: int | None = None

    @property
    def is_compiled(self) -> bool:
        """Whether pip gets its source, and so builds it here."""
        return not self.url.endswith(".whl")


def read_report(report: dict[str, Any]) -> list[Package]:
    """The packages of the report that `pip install --dry-run --report` writes, without their sizes.

    Source: https://pip.pypa.io/en/stable/reference/installation-report
    """
    return [
        Package(re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(), one["download_info"]["url"])
        for one in report["install"]
        if "dir_info" not in one["download_info"]
    ]


def find_cuda(packages: Sequence[Package]) -> list[Package]:
    """Those that only a build for CUDA needs; the largest one first."""
    return sorted((one for one in packages if _CUDA.fullmatch(one.name)), key=lambda one: -(one.size or 0))


def measure(package: Package) -> Package:
    """Asks for the size of a package's file, which the report does not contain. Nothing is downloaded."""
    if urlsplit(package.url).scheme == "file":
        path = urllib.request.url2pathname(urlsplit(package.url).path)
        return Package(package.name, package.url, Path(path).stat().st_size)
    try:
        with urllib.request.urlopen(urllib.request.Request(package.url, method="HEAD"), timeout=_TIMEOUT_S) as answer:
            return Package(package.name, package.url, int(answer.headers["Content-Length"]))
    except (
        OSError,
        HTTPException,
        ValueError,
        TypeError,
    ):  # no answer, or one without a length: pip's own download may still work
        return package


def describe_size(packages: Sequence[Package]) -> str:
    """The size of all of them, such as "412 MB", "3.1 GB" or "412 MB and files of unknown size"."""
    total = sum(one.size or 0 for one in packages)
    size = f"{total / 1000 / _MEGABYTE:.1f} GB" if total >= 1000 * _MEGABYTE else f"{total / _MEGABYTE:.0f} MB"
    return f"{size} and files of unknown size" if any(one.size is None for one in packages) else size


def describe_plan(packages: Sequence[Package]) -> str:
    """What is downloaded and what is compiled, in one line."""
    line = f"{len(packages)} packages, {describe_size(packages)} at most; pip keeps what it downloads."
    if any(one.name == "llama-cpp-python" and one.is_compiled for one in packages):
        line += " llama.cpp is compiled, about 4 minutes on two cores, unless pip has kept that, too."
    return line


def refuse_cuda(packages: Sequence[Package], cuda: Sequence[Package]) -> str:
    """The message about a torch that brings CUDA: what it costs, and how to avoid it."""
    torch = [one for one in packages if one.name == "torch"]
    largest = ", ".join(f"{one.name} {describe_size([one])}" for one in cuda[:3])
    return (
        f"This torch brings CUDA ({largest}, ...): {describe_size([*torch, *cuda])} to"
        " download and about twice that on disk. Nothing more was installed. Choose, and give it to the same make"
        " command:\n"
        "  TORCH_INDEX=URL   torch for CPUs, about 0.2 GB. The URL is that of PyTorch's index of builds for CPUs; on\n"
        "                    PyTorch's site, choose pip and CPU, and copy what follows --index-url.\n"
        "  CUDA=1            torch with CUDA.\n"
        "The demo also runs without torch: pip install '.[cpu]', then edge-llava chat demo:1"
    )


def plan(arguments: Sequence[str]) -> list[Package]:
    """Asks pip what `pip install` with these arguments would install, with sizes."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        run_pip("-qq", "--dry-run", "--report", str(report), *arguments)
        packages = read_report(json.loads(report.read_text(encoding="utf-8")))
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(measure, packages))


def run_pip(*arguments: str) -> None:
    """Runs `pip install`, and ends with its exit code if it fails; pip has said why."""
    code = subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=False).returncode
    if code:
        raise SystemExit(code)


def take_torch_by_uv(constraint: str) -> bool:
    """Installs torch for CPUs with uv, which knows where PyTorch keeps it, and says whether that worked."""
    print("torch for CPUs (about 0.2 GB) from PyTorch's own index, which uv knows:", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        uv = [str(Path(directory) / "bin" / "uv"), "pip", "install", "--python", sys.executable]
        commands = (
            [sys.executable, "-m", "pip", "install", "-qq", "--target", directory, "uv>=0.8"],
            [*uv, "--torch-backend", "cpu", "--no-deps", "--constraint", constraint, "torch"],
        )
        return all(subprocess.run(command, check=False).returncode == 0 for command in commands)


def install(wanted: Sequence[str], constraint: str, torch_index: str | None, *, with_cuda: bool) -> None:
    """Plans, says the plan, and installs.

    Args:
        wanted: Requirements and options of `pip install`.
        constraint: A constraints file.
        torch_index: URL of an index for torch alone; None takes pip's own, or uv's where pip's brings CUDA.
        with_cuda: Whether torch may bring CUDA.

    Raises:
        SystemExit: If pip fails, or CUDA is not wanted and no other torch could be had.
    """
    arguments = ["--constraint", constraint, *wanted]
    print(
        "Asking pip what is needed; where it has no wheel of llama.cpp, that downloads its source (77 MB).", flush=True
    )
    packages = plan(arguments)
    if torch_index and any(one.name == "torch" for one in packages):
        print("torch, from the index that you named:", flush=True)
        run_pip("--constraint", constraint, "--no-deps", "--index-url", torch_index, "torch")
        packages = plan(arguments)
    elif find_cuda(packages) and not with_cuda and take_torch_by_uv(constraint):
        packages = plan(arguments)
    cuda = find_cuda(packages)
    if cuda and not with_cuda:
        raise SystemExit(refuse_cuda(packages, cuda))
    if packages:
        print(describe_plan(packages), flush=True)
    run_pip(*arguments)


def choose_compiler_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Has llama.cpp compiled so that it can use AMX where this processor has it, unless the user chose something else.

    Args:
        cpuinfo: What Linux tells of the processor.
    """
    if cpuinfo.is_file() and "amx_int8" in cpuinfo.read_text(encoding="utf-8", errors="replace").split():
        os.environ.setdefault("CMAKE_ARGS", _AMX_FLAGS)


def main() -> None:
    """Reads the command line, and says at the end how long it took and what the environment takes on disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraint", required=True, metavar="FILE", help="constraints file of pip")
    parser.add_argument("--torch-index", metavar="URL", help="take torch from this index")
    parser.add_argument("--cuda", action="store_true", help="allow a torch that brings CUDA")
    given, wanted = parser.parse_known_args()
    started = time.monotonic()
    try:
        if int(version("pip").partition(".")[0]) < _PIP:
            run_pip("-qq", "--upgrade", "pip")
        choose_compiler_flags()
        install(wanted, given.constraint, given.torch_index, with_cuda=given.cuda)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    files = (path.lstat() for path in Path(sys.prefix).rglob("*"))
    size = sum(stat.st_size for stat in files) / _MEGABYTE
    print(f"Installed in {time.monotonic() - started:.0f} s. {sys.prefix} takes {size:.0f} MB.", flush=True)


if __name__ == "__main__":
    main()
