"""Damaged files of every kind: each is read or refused with the right error; nothing hangs, ends the process or swells.

A new kind is one file in kinds/; see docs/CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="memory of the child is limited as POSIX does")
HERE = Path(__file__).parent
# What the kinds import that needs a package of an extra, by package.
_USES = {"torch": r"torch|tiny_checkpoint", "starlette": r"edge_llava\.server"}


def _param(path: Path) -> ParameterSet:
    """A kind, skipped where a package of an extra is missing."""
    text = path.read_text(encoding="utf-8")
    needed = [package for package, use in _USES.items() if re.search(rf"^(from|import) ({use})\b", text, re.MULTILINE)]
    marks = [pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}") for package in needed]
    return pytest.param(path.stem, marks=[*marks, pytest.mark.convert] if "torch" in needed else marks)


KINDS = [_param(path) for path in sorted((HERE / "kinds").glob("*.py"))]
LIMIT_S = 60.0  # for one case, on a busy machine
DEEP = 250  # times the cases of a default run
MORE = int(os.environ.get("EDGE_LLAVA_FUZZ_CASES", "1"))


class Child:
    """A process that reads damaged files, begun anew when one has ended it."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._process = directory, self._start(directory)

    def run(self, kind: str, first: int, end: int) -> Iterator[tuple[int, str]]:
        """Case and outcome of each; at most five that end the process."""
        for _ in range(5):
            assert self._process.stdin is not None
            self._process.stdin.write(f"{kind} {first} {end}\n".encode())
            self._process.stdin.flush()
            while (line := self._read_line()).endswith("\n"):
                if line == ".\n":
                    return
                number, outcome = line.split(maxsplit=1)
                yield int(number), outcome.strip()
                first = int(number) + 1
            self.close()
            ended = self._process.returncode
            how = f"signal {signal.Signals(-ended).name}" if ended < 0 else f"exit code {ended}"
            self._process = self._start(self._directory)
            assert line, f"the process ended before case {first} of {kind}: {how}"
            yield int(line), f"FAULT {'no end after 60 s' if ended == -signal.SIGKILL else how}"
            first = int(line) + 1

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    @staticmethod
    def _start(directory: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "child.py"), str(directory)]
        environment = os.environ | {"EDGE_LLAVA_HOME": str(directory), "GGML_NO_BACKTRACE": "1"}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def _read_line(self) -> str:
        """Up to the end of a line; less than a line where the process ended, or does not answer."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_S)
            byte = os.read(self._process.stdout.fileno(), 1) if ready else b""
            if not byte:
                break
            line += byte
        return line.decode()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    running = Child(tmp_path_factory.mktemp("fuzz"))
    yield running
    running.close()


def n_cases(kind: str) -> int:
    """As the kind's file says; read without importing it."""
    tree = ast.parse((HERE / "kinds" / f"{kind}.py").read_text(encoding="utf-8"))
    (number,) = (
        k.value for node in ast.walk(tree) if isinstance(node, ast.Call) for k in node.keywords if k.arg == "n_cases"
    )
    assert isinstance(number, ast.Constant)
    assert isinstance(number.value, int)
    return number.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", ["default", pytest.param("deep", marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(
    child: Child, outcomes: dict[str, Counter[str]], kind: str, depth: str
) -> None:
    n, total = n_cases(kind), outcomes.setdefault(kind, Counter())
    first, end = (0, n * MORE) if depth == "default" else (n * MORE, n * MORE * DEEP)
    faults = []
    for number, outcome in child.run(kind, first, end):
        total[outcome.split(maxsplit=1)[0]] += 1
        if outcome.startswith("FAULT"):
            faults.append(f"{outcome}\n    to reproduce: {sys.executable} {HERE / 'child.py'} {kind} {number}")
    assert not faults, "\n".join(faults[:20])
    assert total["ok"] > 0, "not even the good file was read"
    assert total.total() > total["ok"], "no file was damaged"
