"""edge-llava serve: the bundle behind OpenAI's and Ollama's APIs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import INTERRUPTED, note, show_progress
from edge_llava.cli.options import EngineChoice, bundle_option, engine_options
from edge_llava.cli.printable import printable_line
from edge_llava.errors import MissingExtra
from edge_llava.home.directories import find_bundle

if TYPE_CHECKING:
    import socket

    from edge_llava.runtime.dialogue.past_turns import OnFull
    from edge_llava.runtime.engine.engine import BatchEngine
    from edge_llava.server.options import ServerOptions

_MIB = 2**20


@click.command("serve")
@bundle_option
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="NAME",
    show_default=True,
    help="Address to listen on; localhost is 127.0.0.1 and ::1.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, metavar="N", show_default=True, help="0 takes a free one."
)
@click.option(
    "--api-key",
    envvar="EDGE_LLAVA_API_KEY",
    metavar="KEY",
    help="What clients must send. Other hosts than loopback ones need one: without this, it is drawn.",
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Another name of the model; repeatable.")
@click.option(
    "--parallel", type=click.IntRange(1, 128), default=4, metavar="N", show_default=True, help="Answers at a time."
)
@click.option(
    "--queue", type=click.IntRange(0, 4096), default=16, metavar="N", show_default=True, help="Answers that may wait."
)
@click.option(
    "--kv-positions",
    type=click.IntRange(16),
    metavar="N",
    help="KV cache for all answers together. Default: two whole conversations.",
)
@click.option(
    "--keep-mb",
    type=click.IntRange(0),
    default=512,
    metavar="N",
    show_default=True,
    help="Memory for conversations that wait for their next question.",
)
@click.option(
    "--on-full",
    type=click.Choice(["error", "drop-oldest"]),
    default="error",
    show_default=True,
    help="When a conversation does not fit: refuse it, or drop its oldest questions, images last. "
    'A request may say "truncation": "disabled" or "auto".',
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="URL", help="Web page that may use the API; repeatable."
)
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="Name that a proxy calls it by; repeatable."
)
@click.option("--allow-remote-images", is_flag=True, help="Fetch pictures from public http(s) addresses.")
@click.option("--strict", is_flag=True, help="Refuse fields of requests that have no effect.")
@click.option(
    "--private-cache",
    is_flag=True,
    help="Share computed prompts only between requests of one prompt_cache_key or user.",
)
@click.option(
    "--max-images", type=click.IntRange(1, 256), default=16, metavar="N", show_default=True, help="A request."
)
@click.option(
    "--max-image-mb",
    type=click.IntRange(1, 256),
    default=20,
    metavar="N",
    show_default=True,
    help="One picture's file.",
)
@click.option(
    "--max-megapixels",
    type=click.IntRange(1, 178),
    default=50,
    metavar="N",
    show_default=True,
    help="All pictures of a request.",
)
@click.option("-q", "--quiet", is_flag=True, help="No line per request on stderr.")
@engine_options()
def command(
    bundle: str | None,
    host: str,
    port: int,
    api_key: str | None,
    aliases: tuple[str, ...],
    parallel: int,
    queue: int,
    kv_positions: int | None,
    keep_mb: int,
    on_full: OnFull,
    cors_origins: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    allow_remote_images: bool,
    private_cache: bool,
    strict: bool,
    max_images: int,
    max_image_mb: int,
    max_megapixels: int,
    quiet: bool,
) -> None:
    """Serve a bundle over HTTP to this machine alone, unless --host says otherwise.

    It answers OpenAI's chat, Responses and completions APIs, and Ollama's.

    \b
    edge-llava serve
    curl http://127.0.0.1:8080/v1/chat/completions \\
      -H "Content-Type: application/json" \\
      -d '{"messages": [{"role": "user", "content": "Hello"}]}'
    """
    _check_extra()
    from edge_llava.server.http.api_key import ApiKey
    from edge_llava.server.http.limits import Limits
    from edge_llava.server.http.listening import is_loopback_socket, listen
    from edge_llava.server.options import ServerOptions

    _check_key(api_key)
    origins = _read_origins(cors_origins)
    with ExitStack() as held:
        listeners = [held.enter_context(listener) for listener in listen(host, port)]
        is_local = all(map(is_loopback_socket, listeners))
        drawn_key = None if is_local or api_key is not None else ApiKey.generate()
        options = ServerOptions(
            api_key=api_key or drawn_key,
            aliases=aliases,
            cors_origins=origins,
            allowed_hosts=allowed_hosts if is_local else None,
            remote_images=allow_remote_images,
            private_cache=private_cache,
            strict=strict,
            limits=Limits(
                body_bytes=_body_bytes(max_image_mb),
                n_images=max_images,
                image_bytes=max_image_mb * _MIB,
                image_pixels=max_megapixels * 1_000_000,
                held_bytes=_held_bytes(max_image_mb, max_megapixels),
            ),
        )
        kept_bytes = keep_mb * _MIB
        with _open_engine(bundle, parallel, queue, kv_positions, kept_bytes) as engine:
            engine.on_full = on_full
            _show_requests(quiet)
            _serve(engine, options, listeners, drawn_key)
    note("stopped")


def _check_extra() -> None:
    for package in ("starlette", "uvicorn", "h11"):
        if find_spec(package) is None:
            raise MissingExtra("serve", "serving a bundle", package)


def _check_key(key: str | None) -> None:
    from edge_llava.server.http.api_key import ApiKey

    if key is not None:
        try:
            ApiKey(key)
        except ValueError as error:
            raise click.UsageError(f"--api-key: {error}") from error


def _read_origins(origins: Sequence[str]) -> tuple[str, ...]:
    from edge_llava.server.http.cors import read_origin

    read, faults = [], []
    for origin in origins:
        try:
            read.append(read_origin(origin))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise click.UsageError(f"--cors-origin: {'; '.join(faults)}")
    return tuple(read)


def _body_bytes(max_image_mb: int) -> int:
    """Room for one largest picture in base64, and for as much again of others and text as fits beside it."""
    return max_image_mb * _MIB * 4 // 3 + 8 * _MIB


def _held_bytes(max_image_mb: int, max_megapixels: int) -> int:
    """A gigabyte for all requests together; more where one with the largest WebP image takes more by itself."""
    from edge_llava.runtime.vision.images.decoding_memory import decoding_bytes

    return max(1 << 30, decoding_bytes(max_megapixels, 1_000_000, "WEBP") + 4 * _body_bytes(max_image_mb))


def _open_engine(
    bundle: str | None, n_parallel: int, n_queued: int, n_positions: int | None, kept_bytes: int
) -> BatchEngine:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.engine.engine import BatchEngine
    from edge_llava.runtime.options import n_ctx

    opened, options = Bundle.open(find_bundle(bundle)), EngineChoice.said().options(bundle)
    # a whole conversation of a 7B model takes 2 GB, and hardly any is: the youngest answer waits when it is full
    n_positions = n_positions or min(n_parallel, 2) * n_ctx(opened.manifest.language, options.decoder)
    try:
        with show_progress() as progress:
            return BatchEngine(
                opened,
                options,
                n_parallel=n_parallel,
                n_queued=n_queued,
                n_positions=n_positions,
                kept_bytes=kept_bytes,
                progress=progress,
            )
    except ValueError as error:
        raise click.UsageError(f"--kv-positions: {error}") from error


def _show_requests(quiet: bool) -> None:
    """A line per request on stderr, and whatever goes wrong.

    Not what llama.cpp says to it: errors of ours hold that, and it calls an answer that a client left an error.
    """
    log = logging.getLogger("edge_llava")
    if not log.isEnabledFor(logging.DEBUG):  # --debug shows all already
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLine(datefmt="%H:%M:%S"))
        handler.addFilter(lambda record: record.name != "edge_llava.llama_cpp")
        log.addHandler(handler)
        logging.getLogger("asyncio").addHandler(handler)
        log.setLevel(logging.WARNING if quiet else logging.INFO)


class _OneLine(logging.Formatter):
    """Of an error, its kind and its words instead of a traceback; no control character reaches the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        error = record.exc_info[1] if record.exc_info else None
        line = f"{self.formatTime(record, self.datefmt)} {record.getMessage()}"
        if error is not None:
            line = f"{line}: {type(error).__name__}: {error}"
        return printable_line(line)


def _serve(
    engine: BatchEngine, options: ServerOptions, listeners: Sequence[socket.socket], drawn_key: str | None
) -> None:
    from edge_llava.server.app import ServerApp
    from edge_llava.server.http.listening import url_of
    from edge_llava.server.serving import serve

    app = ServerApp(engine, options)

    def announce() -> None:
        url = url_of(listeners[0])
        note(f"{app.models.name} is served. Ctrl-C ends it.")
        note(f"  API:  {url}/v1")
        if drawn_key is None:
            note(f"  page: {url}/")
        else:  # whoever opens the link need not type the key; what follows the # is never sent
            note(f"  key:  {drawn_key}")
            note(f"  page: {url}/#key={drawn_key}")

    serve(app, listeners, announce, _end_at_once)


def _end_at_once() -> None:
    """Not by sys.exit(), which would wait for what the engine's threads are in the middle of."""
    note("stopped at once")
    os._exit(INTERRUPTED)
