"""When llama.cpp, or a GPU's driver, ends the process: says why, and lets the next process compute on the CPU.

llama.cpp's backends end the process at a fault: with ggml's `abort`, which tells the reason before, or with a signal
out of a driver, after which no code of ours runs. Python's faulthandler still writes a few lines then, into a file that
is kept for a bundle on its devices; after every other end, also by SIGKILL, that file is empty.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edge_llava.cli.display import note
from edge_llava.cli.printable import printable_line
from edge_llava.errors import BackendError
from edge_llava.home.directories import has_home, home_directory

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.ggml.devices import GgmlDevice
    from edge_llava.runtime.options import EngineOptions


_log_file: list[TextIO] = []  # what is written to where the process ends
_callbacks: list[Any] = []  # C keeps only their addresses


def explain_aborts() -> None:
    """From now on, where ggml would abort, the process says why and exits with BackendError's code."""
    from edge_llava.ggml.library import bind

    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
    _callbacks[:] = [kind(_end)]
    bind("ggml_set_abort_callback", ctypes.c_void_p, [kind])(_callbacks[0])


def _end(message: bytes) -> None:
    """Ends the process at once: ggml must not return to where it cannot continue."""
    reason = printable_line(message.decode("utf-8", "replace").rpartition("/")[2])
    with contextlib.suppress(OSError):
        for file in _log_file:
            file.write(reason)
            file.flush()
        os.write(2, f"edge-llava: llama.cpp cannot continue: {reason}. See: edge-llava doctor\n".encode())
    os._exit(BackendError.exit_code)


def avoid_crash(bundle: Bundle, options: EngineOptions, *, may_move: bool | None = None) -> EngineOptions:
    """The options, or those for the CPU where a process before this one was ended on the GPUs that they put blocks on.

    GPUs that are named, or a number of blocks, are taken as they are: that tries again, and forgets the crash.
    `may_move` is as of `make_fit`.

    Raises:
        BackendError: If llama.cpp has no device that the options name.
    """
    from edge_llava.fitting.bundle_needs import used_devices
    from edge_llava.ggml.library import may_see_gpus

    decoder = options.decoder
    if not (decoder.may_offload and may_see_gpus() and has_home()):
        return options
    devices = used_devices(options)
    if not devices or any(
        device.backend == "RPC" for device in devices
    ):  # what fails on another computer is not this driver's fault
        return options
    path = _crash_file(bundle, devices)
    with contextlib.suppress(OSError):  # what cannot be kept is not missed
        is_open = decoder.n_gpu_layers < 0 if may_move is None else may_move
        if decoder.devices is None and is_open and path.is_file() and path.stat().st_size:
            names = ",".join(device.name for device in devices)
            note(
                f"edge-llava: computing on the CPU, because {bundle.name} ended the last process on {names}. "
                f"To try again: --device {names}. See: edge-llava doctor"
            )
            return replace(options, decoder=replace(decoder, devices=(), n_gpu_layers=-1))
        _watch(path)
    return options


def _watch(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _log_file[:] = [path.open("w", encoding="utf-8")]  # it stays open until the process ends
    faulthandler.enable(_log_file[0], all_threads=False)
    atexit.register(_forget)


def _forget() -> None:
    """After a normal exit: on Windows, faulthandler also logs exceptions that a driver handles itself."""
    faulthandler.disable()
    for file in _log_file:
        file.truncate(0)


def _crash_file(bundle: Bundle, devices: tuple[GgmlDevice, ...]) -> Path:
    from edge_llava.ggml.library import library_digest

    facts = [bundle.manifest.files["language"].sha256, library_digest(), *map(str, devices)]
    return home_directory() / "crashes" / f"{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:32]}.txt"
