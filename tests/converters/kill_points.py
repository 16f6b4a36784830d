"""Kills the last steps of a conversion at each of their calls to the file system, and reports what was left each time.

Usage: python kill_points.py DIRECTORY fresh|replace at-once|two-steps

DIRECTORY/old is a bundle that opens. One JSON line: [[state after the kill, state after the next conversion], ...]
for each call in turn; the last one is of a run that was not killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from edge_llava.bundle.bundle import Bundle
from edge_llava.converters import staging
from edge_llava.errors import EdgeLlavaError
from edge_llava.home import atomic_directory
from edge_llava.home.directories import bundles_directory, find_bundle, list_bundles

CALLS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.scandir",
    "os.listdir",
    "os.chmod",
    "os.truncate",
)


def convert(out: Path, content: Path) -> None:
    """What `pipeline.stage` does with directories; the steps between are a copy."""
    staging.check_target(out, overwrite=True)
    with staging.staging_directory(out, overwrite=True) as directory:
        shutil.copytree(content, directory, dirs_exist_ok=True)


def kill_at(number: int) -> None:
    """From now on, the process is killed before the call with this number."""
    calls = 0

    def look(event: str, arguments: object) -> None:
        nonlocal calls
        if event in CALLS:
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def state() -> str:
    """Which bundle opens by the name "b", and which names are listed."""
    try:
        found = Bundle.open(find_bundle("b")).manifest.created_by
    except EdgeLlavaError:
        found = "none"
    return " ".join([found, *(path.name for path in list_bundles())])


def main(directory: Path, target: str, steps: str) -> None:
    if steps == "two-steps":
        atomic_directory.exchange = lambda first, second: False
    out, outcomes = bundles_directory() / "b", []
    bundles_directory().mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        if target == "replace":
            shutil.copytree(directory / "old", out)
        child = os.fork()
        if child == 0:
            kill_at(number)
            convert(out, directory / "new")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = state()
        convert(out, directory / "new")
        left = sorted(path.relative_to(out.parent).as_posix() for path in out.parent.rglob("*"))
        outcomes.append((killed, state(), left))
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
