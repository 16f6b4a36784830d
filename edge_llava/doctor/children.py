"""Probes that may crash or hang, each in a process of its own. All are started at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

_COMMAND = (sys.executable, "-m", "edge_llava.cli.doctor_probe")
_MAX_ERROR = 300  # characters of what a child wrote before it ended


@dataclass(frozen=True)
class Outcome:
    """What came of a probe.

    Attributes:
        facts: What it reported, as far as it came.
        failure: How it ended before it was done: "ended by SIGILL", "took longer than 60 s"; "" where it was done.
    """

    facts: Mapping[str, Any]
    failure: str = ""


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]


def run_probes(probes: Mapping[str, Sequence[str]], limit_s: float) -> dict[str, Outcome]:
    """Runs probes side by side, each `python -m edge_llava.cli.doctor_probe NAME ARGUMENTS`.

    Args:
        probes: By name, their arguments.
        limit_s: Seconds after which those that are not done are killed.
    """
    with contextlib.ExitStack() as files:
        children = {name: _start([*_COMMAND, name, *arguments], files) for name, arguments in probes.items()}
        end = time.monotonic() + limit_s
        return {name: _finish(child, max(0.0, end - time.monotonic()), limit_s) for name, child in children.items()}


def ask_program(command: Sequence[str], limit_s: float) -> str:
    """What a small program of the system prints; "" where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit_s, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _start(command: Sequence[str], files: contextlib.ExitStack) -> _Child:
    output = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (open until all are done)
    errors = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    # ggml would attach a debugger to a crash, and pour its report out
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment)
    return _Child(process, output, errors)


def _finish(child: _Child, left_s: float, limit_s: float) -> Outcome:
    failure = ""
    try:
        code = child.process.wait(left_s)
        if code:
            failure = f"ended by {_signal_name(-code)}" if code < 0 else f"failed: {_last_line(child.errors)}"
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
        failure = f"took longer than {limit_s:.0f} s"
    child.output.seek(0)
    facts: dict[str, Any] = {}
    for line in child.output.read().decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):  # a library may print among our lines
            value = json.loads(line)
            facts |= value if isinstance(value, dict) else {}
    return Outcome(facts, failure)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return (lines[-1] if lines else "without a word")[:_MAX_ERROR]
