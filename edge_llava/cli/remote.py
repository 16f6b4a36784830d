"""Options of commands that ask a model on a server, and what is said before and after."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import note
from edge_llava.remote.budget import Budget, Estimate, Prices

if TYPE_CHECKING:
    from edge_llava.remote.chat_client import ChatClient
    from edge_llava.remote.kept_replies import KeptReplies

_DEFAULT_KEY = "OPENAI_API_KEY"
_REPLIES_NAME = "replies.jsonl"
_Command = Callable[..., Any]


class Finite(click.FloatRange):
    """A number in a range that is neither infinite nor nan."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts it.

        Raises:
            click.BadParameter: If the value is not such a number.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


@dataclass(frozen=True)
class RemoteChoice:
    """The user's choices for a model on a server: the values of `remote_options`."""

    model: str | None
    concurrency: int
    timeout: float
    key_env: str | None
    price_in: float | None
    price_out: float | None
    max_cost: float | None = None

    @property
    def prices(self) -> Prices:
        """Of its tokens."""
        return Prices(self.price_in, self.price_out)

    def check(self) -> None:
        """Refuses what lacks a part, before anything is read."""
        if self.model is None:
            raise click.UsageError("--model: name the model that the server should run")
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise click.UsageError("--max-cost needs --price-in and --price-out")

    def open(self, address: str) -> ChatClient:
        """A client of the model; close it."""
        from edge_llava.remote.chat_client import ChatClient, ChatOptions

        self.check()
        key = os.environ.get(self.key_env or _DEFAULT_KEY, "").strip()
        if self.key_env is not None and not key:  # the default may be unset: not every server asks for a key
            raise click.UsageError(f"--key-env: the environment variable {self.key_env} is not set")
        return ChatClient(ChatOptions(address, str(self.model), key or None, self.timeout))

    @contextmanager
    def asking(self, address: str, directory: Path) -> Iterator[tuple[ChatClient, KeptReplies]]:
        """A client, and the replies that are kept in a directory; says at the end what all of them cost."""
        from edge_llava.remote.kept_replies import KeptReplies

        budget = Budget(self.prices, self.max_cost)
        with self.open(address) as client, KeptReplies(directory / _REPLIES_NAME, client, budget) as replies:
            try:
                yield client, replies
            finally:
                n_prompt, n_completion = replies.prompt_tokens, replies.completion_tokens
                cost = self.prices.cost(n_prompt, n_completion)
                price = "" if cost is None else f", cost {cost:.4f}"
                note(f"tokens of all replies: {n_prompt:,} prompt, {n_completion:,} completion{price}")

    def tell(self, what: str, estimate: Estimate) -> None:
        """Says what is still to be asked, before the first request."""
        if not estimate.n_requests:
            note(f"{what}: every reply is kept already.")
            return
        cost = self.prices.cost(estimate.prompt_tokens, estimate.completion_tokens)
        price = "" if cost is None else f", which cost about {cost:.2f}"
        note(
            f"{what}: {estimate.n_requests:,} requests, about {estimate.prompt_tokens:,} prompt and "
            f"{estimate.completion_tokens:,} completion tokens{price}."
        )


_OPTIONS = {
    "model": click.option("--model", metavar="NAME", help="Model that the server should run."),
    "concurrency": click.option(
        "--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at the same time."
    ),
    "timeout": click.option(
        "--timeout", type=Finite(0, min_open=True), default=120, show_default=True, help="Seconds."
    ),
    "key_env": click.option(
        "--key-env", metavar="NAME", help=f"Environment variable with the key. Default: {_DEFAULT_KEY}."
    ),
    "price_in": click.option("--price-in", type=Finite(0), metavar="X", help="Price of a million prompt tokens."),
    "price_out": click.option("--price-out", type=Finite(0), metavar="X", help="Price of a million completion tokens."),
    "max_cost": click.option(
        "--max-cost", type=Finite(0, min_open=True), metavar="X", help="Stop once the replies have cost this much."
    ),
}


class RemoteCommand(click.Command):
    """A command with `remote_options`, whose function takes their values as `remote: RemoteChoice`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the command's function."""
        names = {field.name for field in fields(RemoteChoice)} & ctx.params.keys()
        ctx.params["remote"] = RemoteChoice(**{name: ctx.params.pop(name) for name in names})
        return super().invoke(ctx)


def remote_options(*, without: str = "") -> Callable[[_Command], _Command]:
    """A decorator that adds the options of `RemoteChoice`, all but one field's if one is named."""

    def decorate(command: _Command) -> _Command:
        for name in reversed(_OPTIONS):
            command = command if name == without else _OPTIONS[name](command)
        return command

    return decorate
