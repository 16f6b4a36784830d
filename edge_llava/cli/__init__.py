"""The command line: one file per command, imported when it is called. Only this part of edge-llava prints."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from importlib import import_module
from types import TracebackType

import click

from edge_llava.cli.command_names import OTHER_NAMES_NOTE, name_numbers, read_names
from edge_llava.cli.display import INTERRUPTED, note
from edge_llava.cli.printable import printable
from edge_llava.device.memory import is_out_of_memory
from edge_llava.errors import EdgeLlavaError

_COMMANDS = (
    "pull", "convert", "chat", "serve", "caption", "embed", "verify", "inspect", "models", "push", "cache", "data",
    "train", "eval", "tune", "bench", "fit", "doctor",
)  # fmt: skip


class _LazyGroup(click.Group):
    """Commands in the order of _COMMANDS; each lives in `edge_llava.cli.<name>` as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"edge_llava.cli.{cmd_name}").command
        name_numbers(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with, also by a name that `read_names` knows."""
        return super().resolve_command(ctx, read_names(args, _COMMANDS, ctx))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=OTHER_NAMES_NOTE,
)
@click.version_option(package_name="edge-llava", prog_name="edge-llava", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, envvar="EDGE_LLAVA_DEBUG", help="Show tracebacks and the engines' own messages.")
def cli(debug: bool) -> None:
    """Run LLaVA on this device: convert a checkpoint once, then ask about images.

    \b
    edge-llava convert llava-hf/llava-1.5-7b-hf
    edge-llava chat img.jpg -p "What is on the table?"
    """
    if debug:
        handler = logging.StreamHandler()
        handler.setFormatter(_Printable("%(name)s: %(message)s"))
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])
        sys.excepthook = _show_traceback
    else:
        _hold_back_engines()


def _hold_back_engines() -> None:
    """What users must know is an error or a note of our own."""
    from edge_llava.runtime.vision.onnx_runtime import hold_back_messages

    warnings.simplefilter("ignore")
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # llama.cpp would have gdb print one when it aborts
    hold_back_messages()
    log = logging.getLogger("edge_llava.vision")
    log.addHandler(_NOTES)
    click.get_current_context().call_on_close(lambda: log.removeHandler(_NOTES))


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Shows a warning as a note."""
        note(f"edge-llava: {record.getMessage()}")


_NOTES = _Notes(logging.WARNING)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code; see `edge_llava.errors` for the codes."""
    run_command(cli, arguments, "edge-llava")


def run_command(command: click.Command, arguments: list[str] | None, name: str) -> None:
    """Runs a command as a program of this name, and exits with its code."""
    sys.excepthook = _report_bug
    _open_closed_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up like Ctrl-C
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may contain characters that the terminal's encoding lacks
    try:
        sys.exit(command.main(arguments, prog_name=name, standalone_mode=False) or 0)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _print_error(shown.getvalue().rstrip("\n"))
        sys.exit(error.exit_code)
    except OSError as error:  # a path or stream error that the library does not translate
        if sys.excepthook is not _report_bug:
            _print_error(traceback.format_exc())
        _print_error(f"{name}: {error}")
        sys.exit(1)
    except EdgeLlavaError as error:
        if sys.excepthook is not _report_bug:
            _print_error(traceback.format_exc())
        _print_error(f"{name}: {error}")
        sys.exit(error.exit_code)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # an error about stderr cannot be reported on stderr
        click.echo(printable(text), err=True)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The record, with a traceback if it has one, without control characters."""
        return printable(super().format(record))


def _open_closed_streams() -> None:
    """Replaces streams that the caller closed, which are None in Python, by the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the end)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _print_error("".join(traceback.format_exception(kind, error, trace)))


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if is_out_of_memory(error):
        _print_error("edge-llava: out of memory. Close other programs, or choose a smaller model, image or context.")
        return
    click.echo(printable(f"edge-llava: internal error: {kind.__name__}: {error}"), err=True)
    click.echo("This is a bug. Run again with: edge-llava --debug ... and report what it prints.", err=True)
