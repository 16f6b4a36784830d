"""Builds a release: sdist, wheel, checksums and notes.

    python packaging/release.py v0.2.0 dist --notes notes.md

The tag must be that of the version in pyproject.toml, and docs/CHANGELOG.md must have a section for it, which becomes
the notes. The wheel is then installed as users install it, with [cpu], in an environment of its own, where it must pass
its self-test and answer a question. Wheels of llama-cpp-python in the directory are used for that. It needs the
package `build`, and Python 3.11.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tomllib

_ROOT = Path(__file__).parents[1]
_SUMS = "SHA256SUMS"
_QUESTION, _ANSWER = "What colour is the square?", "Blue."  # of demo:1


def read_version(pyproject: str) -> str:
    """The version in the text of pyproject.toml."""
    version: str = tomllib.loads(pyproject)["project"]["version"]
    return version


def read_notes(changelog: str, version: str) -> str:
    """The text of a version's section of the changelog, without its heading.

    Raises:
        SystemExit: If there is none, it has no date, or it is empty.
    """
    headings = re.findall(rf"^## \[{re.escape(version)}\].*$", changelog, re.MULTILINE)
    if len(headings) != 1 or not re.fullmatch(r"## \[.+\] - \d{4}-\d\d-\d\d", headings[0]):
        found = f"it has {headings}" if headings else "it has none"
        raise SystemExit(f"docs/CHANGELOG.md needs one heading like '## [{version}] - 2026-12-31'; {found}.")
    _, _, rest = changelog.partition(headings[0])
    notes = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not notes:
        raise SystemExit(f"docs/CHANGELOG.md says nothing about {version}.")
    return notes + "\n"


def check_tag(tag: str, version: str) -> None:
    """
    Raises:
        SystemExit: If the tag is not the version's.
    """
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, and pyproject.toml says {version}: tag v{version}, or change the version.")


def write_sums(directory: Path) -> Path:
    """Writes the digests of the directory's files, as `sha256sum --check` reads them."""
    lines = []
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name != _SUMS:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    sums = directory / _SUMS
    sums.write_text("".join(lines), encoding="utf-8", newline="\n")
    return sums


def try_wheel(wheel: Path) -> None:
    """Installs a wheel in a new environment and home, and asks the demo there.

    Raises:
        SystemExit: If the answer is wrong.
        subprocess.CalledProcessError: If a step fails.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        binaries = directory / "venv" / ("Scripts" if os.name == "nt" else "bin")
        _run([sys.executable, "-m", "venv", str(directory / "venv")])
        links = ["--prefer-binary", "--find-links", str(wheel.parent)]
        _run([str(binaries / "python"), "-m", "pip", "install", "--quiet", *links, f"{wheel}[cpu]"])
        _run([str(binaries / "edge-llava-selftest")], home=directory)
        command = [str(binaries / "edge-llava"), "chat", "demo:1", "--temp", "0", "-p", _QUESTION]
        answer = _run(command, home=directory).strip()
        if answer != _ANSWER:
            raise SystemExit(f"{wheel.name} answers {answer!r} instead of {_ANSWER!r} to {_QUESTION!r}.")


def _run(command: Sequence[str], home: Path | None = None) -> str:
    """Runs a command outside the clone, whose modules would otherwise be imported; returns what it prints."""
    settings = {**os.environ, "EDGE_LLAVA_HOME": str(home)} if home else None
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(command, cwd=elsewhere, env=settings, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main() -> None:
    """Checks, builds, tries, and writes the checksums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag", help="such as v0.2.0")
    parser.add_argument("out", type=Path, help="directory of the files of the release")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="write the notes there")
    given = parser.parse_args()
    version = read_version((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    check_tag(given.tag, version)
    notes = read_notes((_ROOT / "docs" / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if given.notes:
        given.notes.write_text(notes, encoding="utf-8")
    out = given.out.resolve()
    _run([sys.executable, "-m", "build", "--outdir", str(out), str(_ROOT)])
    (wheel,) = out.glob(f"edge_llava-{version}-*.whl")
    try_wheel(wheel)
    print(write_sums(out).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
