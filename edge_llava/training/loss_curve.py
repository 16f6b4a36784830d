"""The loss curve: JSON lines while training, a plot afterwards."""

from __future__ import annotations

import json
import time
from itertools import accumulate
from pathlib import Path

from edge_llava.home.files import write_text
from edge_llava.home.line_file import LineFile


class LossCurve:
    """The points of one run, appended to a file one by one.

    A line is {"step", "loss", "learning_rate", "grad_norm", "time"}; time in seconds since the epoch.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: JSON lines; created with the first point.
        """
        self._path = path

    def resume(self, after_step: int) -> None:
        """Drops the points after a step, which will be computed again, and a last line that was cut off."""
        kept = [point for point in self.points() if point["step"] <= after_step]
        write_text(self._path, "".join(f"{json.dumps(point)}\n" for point in kept))

    def add(self, step: int, loss: float, learning_rate: float, grad_norm: float) -> None:
        """Appends a point: the mean loss since the previous one."""
        point = {
            "step": step, "loss": round(loss, 6), "learning_rate": learning_rate,
            "grad_norm": round(grad_norm, 4), "time": round(time.time(), 1),
        }  # fmt: skip
        with LineFile(self._path) as file:
            file.append(json.dumps(point).encode() + b"\n")

    def points(self) -> list[dict[str, float]]:
        """Reads all points up to the first line that a kill or a power failure left unfinished."""
        if not self._path.is_file():
            return []
        points = []
        # what follows the last newline is unfinished
        for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            try:
                points.append(json.loads(line))
            except ValueError:
                break
        return points

    @property
    def last_loss(self) -> float:
        """Returns the loss of the last point; NaN if there is none."""
        points = self.points()
        return points[-1]["loss"] if points else float("nan")

    def draw(self, path: Path, title: str) -> None:
        """Draws loss over steps as a PNG; does nothing if there are no points."""
        points = self.points()
        if not points:
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        steps, losses = [point["step"] for point in points], [point["loss"] for point in points]
        axes.plot(steps, losses, linewidth=0.8, marker=".", alpha=0.4, color="tab:blue")
        axes.plot(steps, list(accumulate(losses, smooth)), linewidth=1.6, color="tab:blue")
        axes.set(xlabel="step", ylabel="loss", title=title, yscale="log" if min(losses) > 0 else "linear")
        axes.grid(alpha=0.3, which="both")
        figure.savefig(path, dpi=120)


def smooth(mean: float | None, value: float, memory: float = 0.9) -> float:
    """Returns the running mean after one more value; None is the mean of no values."""
    return value if mean is None else memory * mean + (1 - memory) * value
