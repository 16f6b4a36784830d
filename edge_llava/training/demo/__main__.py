"""python -m edge_llava.training.demo OUT WORK: makes the demo checkpoint; the same command goes on after a stop."""

from __future__ import annotations

from pathlib import Path

import click

from edge_llava.cli.display import show_progress
from edge_llava.training.demo.recipe import make_demo


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
def main(out: Path, work: Path) -> None:
    """Make the demo checkpoint in OUT, keeping all that is made on the way in WORK."""
    with show_progress() as progress:
        make_demo(out, work, progress=progress)


if __name__ == "__main__":
    main()
