"""Measures what preparing an image does for the time from the question to the first token, with a loaded model.

    python benchmarks/prepared.py BUNDLE IMAGE --rounds 5 --ahead 5

In turns, each about a new image: asked without preparing; prepared some seconds before; prepared and asked at once,
which must not take longer; and prepared, then asked about another image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import edge_llava
from edge_llava.home.image_files.opening import open_image
from edge_llava.measuring.benchmark import mark_image
from edge_llava.runtime.session import Session

_QUESTION = "Describe the picture."


class Images:
    """Makes images of one, no two alike."""

    def __init__(self, source: Image.Image) -> None:
        self._source, self._n_made = source, 0

    def make(self) -> Image.Image:
        """The next one."""
        self._n_made += 1
        return mark_image(self._source, self._n_made)


def first_token_s(session: Session, image: Image.Image) -> float:
    """Seconds from the question to the first token; the rest of the answer is read, too."""
    started = time.perf_counter()
    tokens = session.ask(_QUESTION, image=image)
    next(tokens)
    seconds = time.perf_counter() - started
    for _ in tokens:
        pass
    session.clear()
    return seconds


def main(bundle: Path, image: Path, n_rounds: int, ahead_s: float) -> None:
    """Prints a line for each way of asking: the median, the least and the most, and the median ratio within a round."""
    images = Images(open_image(image))
    with edge_llava.load(bundle) as model:
        session = model.session(edge_llava.SamplingOptions(temperature=0, max_new_tokens=4))
        first_token_s(session, images.make())

        def plain() -> float:
            return first_token_s(session, images.make())

        def prepared(wait_s: float) -> float:
            shown = images.make()
            session.prepare(shown)
            time.sleep(wait_s)
            return first_token_s(session, shown)

        def another() -> float:
            session.prepare(images.make())
            time.sleep(0.5)
            return first_token_s(session, images.make())

        ways: dict[str, Callable[[], float]] = {
            "not prepared": plain,
            f"prepared {ahead_s:g} s before": lambda: prepared(ahead_s),
            "prepared and asked at once": lambda: prepared(0),
            "another was prepared 0.5 s before": another,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(n_rounds):
            for name, measure in ways.items():
                seconds[name].append(measure())
    print("| asked | first token, s | ratio |\n|---|---|---|")
    for name, values in seconds.items():
        ratio = statistics.median(value / base for value, base in zip(values, seconds["not prepared"], strict=True))
        spread = f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        print(f"| {name} | {spread} | {ratio:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ahead", type=float, default=5.0, help="seconds before the question")
    given = parser.parse_args()
    main(given.bundle, given.image, given.rounds, given.ahead)
