"""Makes the demo checkpoint. After a stop, the same command resumes.

In the folder examples: python -m demo_checkpoint OUT WORK
"""

from __future__ import annotations

from pathlib import Path

import click

from demo_checkpoint.recipe import make_demo
from edge_llava.cli.display import show_progress


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
def main(out: Path, work: Path) -> None:
    """Make the demo checkpoint in OUT, with intermediate results in WORK."""
    with show_progress() as progress:
        make_demo(out, work, progress=progress)


if __name__ == "__main__":
    main()
