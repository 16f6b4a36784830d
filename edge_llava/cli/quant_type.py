"""The weights of a language model, as options name them."""

from __future__ import annotations

import click

from edge_llava.bundle.language_spec import QUANTS


class _QuantType(click.Choice[str]):
    """One of QUANTS, in any case."""

    def __init__(self) -> None:
        super().__init__(QUANTS, case_sensitive=False)

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """Lists the names as the help writes them."""
        return f"{value!r} is not one of {', '.join(self.choices)}."


quant_type = _QuantType()
