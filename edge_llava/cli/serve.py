"""edge-llava serve: serves a bundle over OpenAI's and Ollama's APIs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from edge_llava.cli.crashes import avoid_crash, explain_aborts
from edge_llava.cli.display import INTERRUPTED, note, show_progress
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options
from edge_llava.cli.places import note_places
from edge_llava.cli.printable import printable_line
from edge_llava.cli.shortage import make_fit
from edge_llava.cli.sidecar import announce_ready, exit_at_end_of_stdin, sidecar_options
from edge_llava.errors import MissingExtra

if TYPE_CHECKING:
    import socket

    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.dialogue.past_turns import OnFull
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import EngineOptions
    from edge_llava.server.options import ServerOptions

_MIB = 2**20


@click.command("serve", cls=EngineCommand)
@bundle_option
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="NAME",
    show_default=True,
    help="Address to listen on; localhost means 127.0.0.1 and ::1.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, metavar="N", show_default=True, help="0 takes a free one."
)
@click.option(
    "--api-key",
    envvar="EDGE_LLAVA_API_KEY",
    metavar="KEY",
    help="Key that clients must send. Without it, a host other than loopback gets a random key.",
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Another name of the model; repeatable.")
@click.option(
    "--parallel",
    type=click.IntRange(1, 127),
    default=4,
    metavar="N",
    show_default=True,
    help="Answers computed at the same time.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 4096),
    default=16,
    metavar="N",
    show_default=True,
    help="Answers that may wait in the queue.",
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
    "--cache",
    is_flag=True,
    help="Store what is computed for images on disk, and reuse what `chat` and earlier servers stored.",
)
@click.option(
    "--on-full",
    type=click.Choice(["error", "drop-oldest"]),
    default="error",
    show_default=True,
    help="If a conversation does not fit: refuse it, or drop its oldest questions, images last. "
    'A request may say "truncation": "disabled" or "auto".',
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="URL", help="Web page that may use the API; repeatable."
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Another Host name to accept, such as a proxy's; repeatable.",
)
@click.option("--allow-remote-images", is_flag=True, help="Fetch images from public http(s) addresses.")
@click.option("--strict", is_flag=True, help="Refuse request fields that have no effect.")
@click.option(
    "--private-cache",
    is_flag=True,
    help="Share computed prompts only between requests with the same prompt_cache_key or user.",
)
@click.option(
    "--max-images", type=click.IntRange(1, 256), default=16, metavar="N", show_default=True, help="Images per request."
)
@click.option(
    "--max-image-mb",
    type=click.IntRange(1, 256),
    default=20,
    metavar="N",
    show_default=True,
    help="Megabytes per image file.",
)
@click.option(
    "--max-megapixels",
    type=click.IntRange(1, 178),
    default=50,
    metavar="N",
    show_default=True,
    help="Megapixels of all images of a request.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not print a line per request on stderr.")
@sidecar_options
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
    cache: bool,
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
    announce: str | None,
    exit_with_stdin: bool,
    engines: EngineChoice,
) -> None:
    """Serve a bundle over HTTP, to this machine alone by default.

    The server implements OpenAI's chat, Responses and completions APIs, and Ollama's API.

    \b
    edge-llava serve
    curl http://127.0.0.1:8080/v1/chat/completions \\
      -H "Content-Type: application/json" \\
      -d '{"messages": [{"role": "user", "content": "Hello"}]}'
    """
    _check_extra()
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.server.http.api_key import ApiKey
    from edge_llava.server.http.limits import Limits
    from edge_llava.server.http.listening import is_loopback_socket, listen
    from edge_llava.server.options import ServerOptions

    if exit_with_stdin:
        exit_at_end_of_stdin()
    _check_key(api_key)
    origins = _read_origins(cors_origins)
    with ExitStack() as held:
        listeners = [held.enter_context(listener) for listener in listen(host, port)]
        is_local = all(map(is_loopback_socket, listeners))
        random_key = None if is_local or api_key is not None else ApiKey.generate()
        options = ServerOptions(
            api_key=api_key or random_key,
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
        opened = open_bundle(bundle)
        serving = replace(
            engines.options(opened), parallel=parallel, n_queued=queue, host_bytes=keep_mb * _MIB, cache=cache
        )
        with _open_model(
            opened, serving, kv_positions, force=engines.load_anyway, may_move=engines.leaves_blocks_open
        ) as model:
            model.on_full = on_full
            _show_requests(quiet)
            _serve(model, options, listeners, random_key, announces=announce is not None)
    note("stopped")


def _check_extra() -> None:
    for package in ("starlette", "uvicorn", "h11", "pydantic"):
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
    """The limit of a request body: one image of the largest size in base64, and 8 MiB for all else."""
    return max_image_mb * _MIB * 4 // 3 + 8 * _MIB


def _held_bytes(max_image_mb: int, max_megapixels: int) -> int:
    """Memory for all requests together: 1 GiB, or more if one request with the largest WebP image needs more."""
    from edge_llava.home.image_files.decoding_memory import decoding_bytes

    return max(1 << 30, decoding_bytes(max_megapixels, 1_000_000, "WEBP") + 4 * _body_bytes(max_image_mb))


def _open_model(
    bundle: Bundle, options: EngineOptions, n_positions: int | None, *, force: bool, may_move: bool
) -> LlavaModel:
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import n_ctx

    # a full context of a 7B model takes 2 GB, but few answers need it; if they do, the youngest one is preempted
    is_open = n_positions is None and options.decoder.n_ctx is None
    if n_positions is None:
        n_positions = min(options.parallel, 2) * n_ctx(bundle.manifest.language, options.decoder)
    explain_aborts()
    options = avoid_crash(bundle, replace(options, n_positions=n_positions), may_move=may_move)
    options = make_fit(bundle, options, force=force, may_shorten=is_open, may_move=may_move)
    try:
        with show_progress() as progress:
            return LlavaModel(bundle, options, progress=progress)
    except ValueError as error:
        raise click.UsageError(f"--kv-positions: {error}") from error


def _show_requests(quiet: bool) -> None:
    """Logs a line per request, and all warnings and errors, to stderr.

    llama.cpp's own messages are left out: our errors contain them, and it also reports cancelled answers as errors.
    The vision encoder's are notes already.
    """
    log = logging.getLogger("edge_llava")
    if not log.isEnabledFor(logging.DEBUG):  # --debug shows all already
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLine(datefmt="%H:%M:%S"))
        handler.addFilter(lambda record: record.name not in ("edge_llava.llama_cpp", "edge_llava.vision"))
        log.addHandler(handler)
        logging.getLogger("asyncio").addHandler(handler)
        log.setLevel(logging.WARNING if quiet else logging.INFO)


class _OneLine(logging.Formatter):
    """Formats an error as its type and message instead of a traceback, and makes control characters visible."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record as one line."""
        error = record.exc_info[1] if record.exc_info else None
        line = f"{self.formatTime(record, self.datefmt)} {record.getMessage()}"
        if error is not None:
            line = f"{line}: {type(error).__name__}: {error}"
        return printable_line(line)


def _serve(
    model: LlavaModel,
    options: ServerOptions,
    listeners: Sequence[socket.socket],
    random_key: str | None,
    *,
    announces: bool,
) -> None:
    from edge_llava.server.app import ServerApp
    from edge_llava.server.http.listening import url_of
    from edge_llava.server.serving import serve

    app = ServerApp(model, options)

    def announce() -> None:
        url = url_of(listeners[0])
        note(f"{app.models.name} is served. Ctrl-C stops it.")
        note(f"  API:  {url}/v1")
        if random_key is None:
            note(f"  page: {url}/")
        else:  # the link saves typing the key; browsers never send what follows the #
            note(f"  key:  {random_key}")
            note(f"  page: {url}/#key={random_key}")
        note_places(model)
        if announces:
            announce_ready(url, app.models.name, random_key)

    serve(app, listeners, announce, _end_at_once)


def _end_at_once() -> None:
    """Exits at once. sys.exit() would wait for the engine's threads."""
    note("stopped at once")
    os._exit(INTERRUPTED)
