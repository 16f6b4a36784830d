"""Options of commands that ask a model on a server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_llava.remote.chat_client import ChatClient

_DEFAULT_KEY = "OPENAI_API_KEY"
_Command = Callable[..., Any]


class Finite(click.FloatRange):
    """A number in a range that is neither infinite nor nan."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts it.

        Raises:
            click.BadParameter: If it is no such number.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def remote_options(concurrency: int) -> Callable[[_Command], _Command]:
    """A decorator that adds how to reach a model: concurrency, timeout, key_env, price_in and price_out."""
    options = (
        click.option(
            "--concurrency",
            type=click.IntRange(1, 64),
            default=concurrency,
            show_default=True,
            help="Requests at the same time.",
        ),
        click.option("--timeout", type=Finite(0, min_open=True), default=120, show_default=True, help="Seconds."),
        click.option("--key-env", metavar="NAME", help=f"Environment variable with the key. Default: {_DEFAULT_KEY}."),
        click.option("--price-in", type=Finite(0), metavar="X", help="Price of a million prompt tokens."),
        click.option("--price-out", type=Finite(0), metavar="X", help="Price of a million completion tokens."),
    )

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def open_client(address: str, model: str | None, key_env: str | None, timeout: float) -> ChatClient:
    """A client of a model on a server; close it."""
    from edge_llava.remote.chat_client import ChatClient, ChatOptions

    if model is None:
        raise click.UsageError(f"--model: name the model that the server at {address} should run")
    key = os.environ.get(key_env or _DEFAULT_KEY, "").strip()
    if key_env is not None and not key:  # the default may be unset: not every server asks for a key
        raise click.UsageError(f"--key-env: the environment variable {key_env} is not set")
    return ChatClient(ChatOptions(address, model, key or None, timeout))
