"""Running the command line in this process, and a picture to ask about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_llava.cli import main


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """run(*arguments) -> Result of `edge-llava *arguments`."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(int(exit_.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def photo() -> Path:
    """The sample picture, a JPEG of 640 x 480."""
    return Path(__file__).parents[1] / "data" / "table.jpg"
