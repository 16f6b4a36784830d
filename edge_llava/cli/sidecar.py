"""What an app needs that runs `edge-llava serve` as its own process: to know when it answers, and that it ends along.

A parent that is killed tells its child nothing, but its end of the child's stdin is closed on every system, and through
the launcher of a frozen app, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from edge_llava.cli.display import INTERRUPTED, note

_PATIENCE_S = 15  # for an orderly end, three times what the server gives to running requests
_CHUNK_BYTES = 1 << 16

_Command = Callable[..., Any]


def sidecar_options(command: _Command) -> _Command:
    """Adds --announce and --exit-with-stdin to a command, which takes them as `announce` and `exit_with_stdin`."""
    announce = click.option(
        "--announce", type=click.Choice(["json"]), help="Print one line of JSON on stdout when requests are answered."
    )
    exit_with_stdin = click.option(
        "--exit-with-stdin", is_flag=True, help="End when stdin is closed, hence also with the app that has opened it."
    )
    return announce(exit_with_stdin(command))


def announce_ready(url: str, model: str, key: str | None) -> None:
    """Prints the line of --announce json.

    Args:
        url: Of the server, without a path.
        model: Name to ask for.
        key: The random key that clients must send; None: there is none.
    """
    facts = {"event": "ready", "url": url, "pid": os.getpid(), "model": model, "key": key}
    with contextlib.suppress(OSError):  # an app that reads no more may still ask
        click.echo(json.dumps(facts))
        sys.stdout.flush()


def exit_at_end_of_stdin() -> None:
    """Begins to wait for the end of stdin, which ends the process in order, as SIGTERM does. Input is ignored."""
    handle = sys.stdin.fileno()

    def wait() -> None:
        # sys.stdin itself would be locked while this reads, which Python cannot end with
        with contextlib.suppress(OSError):
            while os.read(handle, _CHUNK_BYTES):
                pass
        note("stdin was closed")
        if os.name == "nt":  # where SIGTERM would end it at once
            signal.raise_signal(signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE_S)
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, name="edge-llava-stdin", daemon=True).start()
