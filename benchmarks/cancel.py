"""How long `cancel()` takes to end an answer, at moments spread over encoding, prefill and decode.

    python benchmarks/cancel.py BUNDLE IMAGE

Each time the answer to a new picture is cancelled after another part of the time that it takes; the session then has to
answer the same question as it does undisturbed.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

from PIL import Image

import edge_llava
from edge_llava.measuring.benchmark import mark_picture
from edge_llava.runtime.session import Session
from edge_llava.runtime.vision.images.opening import open_picture

_QUESTION = "Describe the picture in detail."


def main(bundle: Path, image: Path, n_times: int) -> None:
    """Prints a line for each moment, and the longest wait."""
    picture = open_picture(image)
    options = edge_llava.SamplingOptions(temperature=0, max_new_tokens=24)
    with edge_llava.load(bundle) as model:
        answer_of(model.session(options), picture)  # opens the tower
        undisturbed = model.session(options)
        started = time.perf_counter()
        expected = answer_of(undisturbed, mark_picture(picture, 0))
        whole_s = time.perf_counter() - started
        timings = undisturbed.timings
        assert timings is not None
        encoded = timings.vision_s + timings.projector_s
        waits = []
        for index in range(n_times):
            after_s = whole_s * (index + 0.5) / n_times
            stage = "encode" if after_s < encoded else "prefill" if after_s < whole_s - timings.decode_s else "decode"
            session = model.session(options)
            waits.append(cancel_after(session, mark_picture(picture, index + 1), after_s))
            print(f"cancelled after {after_s:.2f} s ({stage}): returned {waits[-1]:.3f} s later")
            session.clear()
            if answer_of(session, mark_picture(picture, 0)) != expected:
                raise SystemExit("the next answer is another one than undisturbed")
        print(f"longest: {max(waits):.3f} s")


def answer_of(session: Session, picture: Image.Image) -> list[int | None]:
    """The ids of an answer."""
    return [token.id for token in session.ask(_QUESTION, image=picture)]


def cancel_after(session: Session, picture: Image.Image, after_s: float) -> float:
    """Seconds from `cancel()` to the end of the answer."""
    cancelled_at = []

    def cancel() -> None:
        cancelled_at.append(time.perf_counter())
        session.cancel()

    timer = threading.Timer(after_s, cancel)
    timer.start()
    answer_of(session, picture)
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
