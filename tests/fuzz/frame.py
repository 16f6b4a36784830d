"""What a kind of file is to the fuzzer. One file of kinds/ per kind, with a `KIND` of this class."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_llava.bundle.bundle import Bundle
from edge_llava.selftest import BUNDLE

Random = random.Random


@dataclass(frozen=True)
class Kind:
    """How files of a kind are made, damaged and read.

    Attributes:
        n_cases: Cases of a default run; about four seconds.
        make: make(directory) writes what reading needs beside the damaged file, once per process, and returns the
            contents of good files.
        damage: damage(content, random) gives other content, the same for the same state of `random`.
        read: read(directory, content) puts the content into its place and uses it as a user's command would. It
            returns if the content was good enough.
        errors: What `read` may raise; anything else is a fault of the code.
    """

    n_cases: int
    make: Callable[[Path], Sequence[bytes]]
    damage: Callable[[bytes, Random], bytes]
    read: Callable[[Path, bytes], None]
    errors: tuple[type[Exception], ...]

    def case(self, name: str, seeds: Sequence[bytes], number: int) -> bytes:
        """The content of a case; the first ones are the good files themselves."""
        if number < len(seeds):
            return seeds[number]
        rng = random.Random(f"{name} {number}")
        return self.damage(rng.choice(list(seeds)), rng)


def copy_small_bundle(directory: Path) -> Bundle:
    """The self-test's bundle, copied into an existing directory."""
    return Bundle.open(shutil.copytree(BUNDLE, directory, dirs_exist_ok=True))
