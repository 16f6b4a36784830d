"""Measures the memory that a language model needs with given settings, as the peak of a separate process that runs it.

python -m edge_llava.measuring.peak BUNDLE OPTIONS     prints the bytes; OPTIONS is DecoderOptions as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.memory import peak_rss_bytes
from edge_llava.errors import BackendError
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.options import DecoderOptions


def measure_peak(bundle: Path, options: DecoderOptions) -> int:
    """The peak resident size, in bytes, of a process that opens the language model and prefills one batch.

    Raises:
        BackendError: If the process fails; contains its error output.
    """
    command = [sys.executable, "-m", "edge_llava.measuring.peak", str(bundle), json.dumps(asdict(options))]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BackendError(f"the memory could not be measured: {done.stderr.strip().splitlines()[-1:]}.")
    return int(done.stdout)


def _main(directory: str, options: str) -> None:
    bundle, values = Bundle.open(directory), json.loads(options)
    if values["devices"] is not None:
        values["devices"] = tuple(values["devices"])  # JSON has no tuples
    chosen = DecoderOptions(**values)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, chosen)
    try:
        n_rows = min(chosen.n_batch, decoder.n_ctx - 1)
        rows = np.zeros((n_rows, bundle.manifest.language.n_embd), np.float32)
        sequence = OneSequence(decoder)
        sequence.prefill_rows(rows)
        sequence.decode(bundle.manifest.language.bos)
        # read by the parent process
        sys.stdout.buffer.write(b"%d\n" % peak_rss_bytes())
    finally:
        decoder.close()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
