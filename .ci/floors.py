"""Prints a constraints file with the lowest version of each package that pyproject.toml allows.

usage: python .ci/floors.py EXTRA [EXTRA ...] > floors.txt; pip install -c floors.txt '.[EXTRA,...]'

Packages of the `dev` extra are only used in tests, so constraints.txt pins them. It also pins torch, whose Linux wheels
before 2.13 include gigabytes of CUDA; its floor is tested by hand before it changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.version import Version

_ROOT = Path(__file__).parents[1]
_LEFT_TO_CONSTRAINTS = ("torch",)


def list_floors(extras: list[str]) -> dict[str, Version]:
    """The highest floor of each package among the base dependencies and those of the extras."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    floors: dict[str, Version] = {}
    for requirement in map(Requirement, lines):
        versions = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=")]
        if not versions:
            raise SystemExit(f"{requirement} needs a lower bound in pyproject.toml.")
        name = requirement.name.lower()
        floors[name] = max([*versions, floors.get(name, versions[0])])
    return floors


def write_constraints(floors: dict[str, Version]) -> Iterator[str]:
    """Yields the lines of a constraints file: the floors, and the tested versions of all other packages."""
    held = {name: version for name, version in floors.items() if name not in _LEFT_TO_CONSTRAINTS}
    yield from (f"{name}=={version}" for name, version in sorted(held.items()))
    tested = (_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in tested:
        if line and not line.startswith("#") and Requirement(line).name.lower() not in held:
            yield line


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in write_constraints(list_floors(sys.argv[1:])))
