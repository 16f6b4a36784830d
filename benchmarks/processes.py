"""Runs peers as processes, started for one answer or loaded and asked many times, and measures time and memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_HERE = Path(__file__).resolve().parent


class PeerFailed(RuntimeError):
    """A peer failed; the message contains its output."""


@dataclass(frozen=True)
class ColdRun:
    """One process that answers one question.

    Attributes:
        first_s: Seconds from the start to the first byte on stdout.
        total_s: Seconds from the start to the end.
        peak_bytes: Largest resident size.
        cpu_s: Seconds of processor time, of all its threads together.
    """

    first_s: float
    total_s: float
    peak_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class PeerAnswer:
    """The answer of a loaded peer.

    Attributes:
        first_s: Seconds from the question to the first token; includes reading the image file.
        total_s: Seconds from the question to the end of the answer.
        n_tokens: Tokens of the answer.
        figures: The peer's own figures.
    """

    first_s: float
    total_s: float
    n_tokens: int
    figures: Mapping[str, float]


def run_cold(command: Sequence[str], environment: Mapping[str, str]) -> ColdRun:
    """Runs a command that writes an answer to stdout.

    Raises:
        PeerFailed: If it fails or writes nothing.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=os.environ | dict(environment)
        )
        with process:
            assert process.stdout is not None
            first = process.stdout.read(1)
            first_s = time.perf_counter() - started
            process.stdout.read()
            # includes what this process itself has resident, which is less than any model
            _, status, usage = os.wait4(process.pid, 0)
            total_s = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not first:
            errors.seek(0)
            raise PeerFailed(f"{' '.join(command)}: {errors.read().decode('utf-8', 'replace').strip()[-2000:]}")
    return ColdRun(first_s, total_s, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)


def run_new_peer(
    command: Sequence[str], log: Path, image: Path, question: str, n_tokens: int
) -> tuple[ColdRun, PeerAnswer]:
    """Starts a peer, asks one question, and ends it: the process from its start, and its answer from the question.

    Args:
        command, log: As of PeerProcess.
        image, question, n_tokens: As of `PeerProcess.ask`.

    Raises:
        PeerFailed: As of both.
    """
    started = time.perf_counter()
    with PeerProcess(command, log) as peer:
        ready_s = time.perf_counter() - started
        answer = peer.ask(image, question, n_tokens)
        whole = ColdRun(ready_s + answer.first_s, ready_s + answer.total_s, peer.peak_bytes(), peer.cpu_s())
    return whole, answer


class PeerProcess:
    """A loaded peer, see `peers/protocol.py`. It is paused while others are asked, so that its threads take no CPU.

    Attributes:
        facts: Its version and settings.
        pid: Its process id.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """
        Args:
            command: `PYTHON -m peers.NAME ...`, run in this directory; paths have to be absolute.
            log: File for its error output.

        Raises:
            PeerFailed: If it does not become ready.
        """
        self._name = " ".join(command)
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=_HERE, text=True
            )
        self.pid = self._process.pid
        try:
            self.facts: dict[str, Any] = self._read("ready")
        except PeerFailed:
            self._end()
            raise
        self._pause()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, image: Path | None, question: str, n_tokens: int) -> PeerAnswer:
        """Asks a question; None as the image continues the conversation.

        Raises:
            PeerFailed: If the process ends, or ends the answer early, which would make its times meaningless.
        """
        assert self._process.stdin is not None
        message = {"image": None if image is None else str(image), "question": question, "n_tokens": n_tokens}
        self._process.send_signal(signal.SIGCONT)
        started = time.perf_counter()
        self._process.stdin.write(f"{json.dumps(message)}\n")
        self._process.stdin.flush()
        self._read("first")
        first_s = time.perf_counter() - started
        figures = self._read("done")
        total_s = time.perf_counter() - started
        self._pause()
        if figures["n_tokens"] != n_tokens:
            raise PeerFailed(f"{self._name}: wrote {figures['n_tokens']} tokens of {n_tokens}")
        return PeerAnswer(first_s, total_s, n_tokens, figures)

    def peak_bytes(self) -> int:
        """Largest resident size so far (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        mark = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert mark is not None
        return int(mark[1]) * 1024

    def cpu_s(self) -> float:
        """Seconds of processor time so far, of all its threads together (Linux)."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self, kind: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        message = json.loads(line) if line else {}
        if kind not in message:
            output = self._log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
            raise PeerFailed(f"{self._name}: {line.strip() or 'ended'}; its output: {output}")
        return message[kind]
