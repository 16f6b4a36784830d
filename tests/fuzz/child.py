"""Reads damaged files of one kind in this process, which a fault may end.

Usage:
    child.py DIRECTORY      reads lines "KIND FIRST END" from stdin; writes "NUMBER" before and " OUTCOME" after each
                            case, and "." after the last
    child.py KIND NUMBER    one case, with its traceback; to reproduce a failure
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from frame import Kind

_MAX_BYTES = 6 << 30  # of address space: libraries reserve more than they use
_MAX_RESIDENT_BYTES = 2 << 30


def load_kind(name: str) -> Kind:
    """The `KIND` of kinds/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"kinds.{name}", Path(__file__).with_name("kinds") / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kind: Kind = module.KIND
    return kind


def run_case(kind: Kind, name: str, seeds: Sequence[bytes], directory: Path, number: int) -> str:
    """The outcome of a case: "ok", the name of an error that may be, or "FAULT" and what it was."""
    try:
        kind.read(directory, kind.case(name, seeds, number))
    except kind.errors as error:
        return type(error).__name__ if number >= len(seeds) else f"FAULT a good file is refused: {error}"
    except BaseException as error:  # noqa: BLE001 (that there is none is what is tested)
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"FAULT {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > _MAX_RESIDENT_BYTES:
        return "FAULT more than 2 GB of memory"
    return "ok"


def serve(directory: Path) -> None:
    """Runs what stdin asks for."""
    prepared: dict[str, tuple[Kind, Sequence[bytes], Path]] = {}
    for line in sys.stdin:
        name, first, end = line.split()
        if name not in prepared:
            kind, place = load_kind(name), directory / name
            place.mkdir(exist_ok=True)
            prepared[name] = kind, kind.make(place), place
        kind, seeds, place = prepared[name]
        for number in range(int(first), int(end)):
            _write(str(number))
            _write(f" {ascii(run_case(kind, name, seeds, place, number))[1:-1][:300]}\n")
        _write(".\n")


def _write(text: str) -> None:
    os.write(_ANSWERS, text.encode())


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if len(sys.argv) == 3:
        with tempfile.TemporaryDirectory() as temporary:
            chosen, place = load_kind(sys.argv[1]), Path(temporary)
            os.environ["EDGE_LLAVA_HOME"] = temporary
            chosen.read(place, chosen.case(sys.argv[1], chosen.make(place), int(sys.argv[2])))
    else:
        _ANSWERS = os.dup(1)  # what the code under test prints goes nowhere
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)
            serve(Path(sys.argv[1]))
