"""Options that ask for more than there is, and what happens then."""

from __future__ import annotations

from collections.abc import Iterator

from edge_llava.device.facts import count_cpus


def describe_excess(threads: int | None, ctx: int | None, n_ctx_train: int) -> Iterator[str]:
    """A sentence for each option that asks for too much; None where the user asked for nothing.

    Args:
        threads: Of `--threads`.
        ctx: Of `--ctx`, in positions.
        n_ctx_train: Positions that the model was trained with.
    """
    n_cpus = count_cpus()
    if threads is not None and threads > n_cpus:
        cpus = "1 CPU" if n_cpus == 1 else f"{n_cpus} CPUs"
        yield f"-t {threads}: this process may use {cpus}, so that many threads compute; more would be slower."
    if ctx is not None and ctx > n_ctx_train:
        yield (
            f"-c {ctx}: the model was trained with {n_ctx_train:,} positions. In a longer conversation its answers "
            "make less and less sense."
        )
