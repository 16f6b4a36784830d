"""The memory that a language model needs with given settings: the peak of a process of its own, which ran it once.

python -m edge_llava.measuring.peak BUNDLE OPTIONS     prints bytes; OPTIONS is DecoderOptions as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.memory import peak_rss_bytes
from edge_llava.errors import BackendError
from edge_llava.runtime.language.single_decoder import Decoder
from edge_llava.runtime.options import DecoderOptions


def measure_peak(bundle: Path, options: DecoderOptions) -> int:
    """Largest resident size, in bytes, of a process that opens the language model and prefills one batch.

    Raises:
        BackendError: If the process fails; says what it said.
    """
    command = [sys.executable, "-m", "edge_llava.measuring.peak", str(bundle), json.dumps(asdict(options))]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BackendError(f"the memory could not be measured: {done.stderr.strip().splitlines()[-1:]}.")
    return int(done.stdout)


def _main(directory: str, options: str) -> None:
    bundle = Bundle.open(directory)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(**json.loads(options)))
    try:
        n_rows = min(DecoderOptions(**json.loads(options)).n_batch, decoder.n_ctx - 1)
        rows = np.zeros((n_rows, bundle.manifest.language.n_embd), np.float32)
        decoder.prefill_embedding(rows, "memory", 0, threading.Event())
        decoder.decode(bundle.manifest.language.bos)
        # to the process that asked, through its pipe
        sys.stdout.buffer.write(b"%d\n" % peak_rss_bytes())
    finally:
        decoder.close()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
