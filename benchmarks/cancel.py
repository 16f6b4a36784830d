"""Measures how long `cancel()` takes to end an answer, at moments spread over encoding, prefill and decode.

    python benchmarks/cancel.py BUNDLE IMAGE

Each run cancels the answer about a new image after a different part of its duration. The session must then answer the
same question exactly as it does undisturbed.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

from PIL import Image

import edge_llava
from edge_llava.home.image_files.opening import open_image
from edge_llava.measuring.benchmark import mark_image
from edge_llava.runtime.session import Session

_QUESTION = "Describe the picture in detail."


def main(bundle: Path, image: Path, n_times: int) -> None:
    """Prints a line for each moment, and the longest wait."""
    source = open_image(image)
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=24)
    with edge_llava.load(bundle) as model:
        answer_of(model.session(options), source)  # opens the tower
        undisturbed = model.session(options)
        started = time.perf_counter()
        expected = answer_of(undisturbed, mark_image(source, 0))
        whole_s = time.perf_counter() - started
        timings = undisturbed.timings
        assert timings is not None
        encoded = timings.vision_s + timings.projector_s
        waits = []
        for index in range(n_times):
            after_s = whole_s * (index + 0.5) / n_times
            stage = "encode" if after_s < encoded else "prefill" if after_s < whole_s - timings.decode_s else "decode"
            session = model.session(options)
            waits.append(cancel_after(session, mark_image(source, index + 1), after_s))
            print(f"cancelled after {after_s:.2f} s ({stage}): returned {waits[-1]:.3f} s later")
            session.clear()
            if answer_of(session, mark_image(source, 0)) != expected:
                raise SystemExit("the next answer differs from the undisturbed one")
        print(f"longest: {max(waits):.3f} s")


def answer_of(session: Session, image: Image.Image) -> list[int | None]:
    """The token ids of an answer."""
    return [token.id for token in session.ask(_QUESTION, image=image)]


def cancel_after(session: Session, image: Image.Image, after_s: float) -> float:
    """Seconds from `cancel()` to the end of the answer."""
    cancelled_at = []

    def cancel() -> None:
        cancelled_at.append(time.perf_counter())
        session.cancel()

    timer = threading.Timer(after_s, cancel)
    timer.start()
    answer_of(session, image)
    ended = time.perf_counter()
    timer.join()
    return max(0.0, ended - cancelled_at[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--times", type=int, default=16)
    arguments = parser.parse_args()
    main(arguments.bundle, arguments.image, arguments.times)
