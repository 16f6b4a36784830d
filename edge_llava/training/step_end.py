"""What is decided after each step of a run: whether to save its state, and whether to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic

from edge_llava.training.processes import mean_over_processes

StopRequested = Callable[[], bool]
# watch() is entered before the first step and left after the last; what it yields says whether a stop was requested.
WatchForStop = Callable[[], AbstractContextManager[StopRequested]]

_MOST_OF_TIME = 0.1  # that saves by time may take: to a slow disk, one takes minutes


@contextmanager
def never_stop() -> Iterator[StopRequested]:
    """Watches for nothing: the run takes all its steps."""
    yield lambda: False


class Stopped(Exception):
    """A run was stopped on request. Its state is saved, and the same call continues with the next step.

    Attributes:
        step: The last step that was taken, from 1.
        n_steps: Steps of the whole run.
        last_loss: Mean loss of the last logged steps; NaN if none were logged yet.
    """

    def __init__(self, step: int, n_steps: int, last_loss: float) -> None:
        super().__init__(f"stopped at step {step} of {n_steps}")
        self.step, self.n_steps, self.last_loss = step, n_steps, last_loss


class StepEnd:
    """Decides after each step whether to save and whether to stop, the same in all processes of a run.

    Attributes:
        must_save: Whether the state of this step is to be saved.
        must_stop: Whether this is the last step, because a stop was requested.
    """

    def __init__(self, save_every: int, save_every_s: float, is_requested: StopRequested, n_done: int) -> None:
        """
        Args:
            save_every: Steps between saves.
            save_every_s: Seconds between saves; they are further apart if saving would take more than a tenth of them.
            is_requested: Says whether a stop was requested.
            n_done: Steps that an earlier call took.
        """
        self.must_save = self.must_stop = False
        self._save_every, self._save_every_s, self._is_requested = save_every, save_every_s, is_requested
        self._step, self._saved_at, self._save_took_s = n_done, monotonic(), 0.0

    def decide(self, step: int, n_steps: int) -> bool:
        """Sets `must_save` and `must_stop` after a step, from 1; the last step of a run is always saved.

        Returns:
            Whether this step is a new one.
        """
        if step == self._step:
            return False
        self._step = step
        wait_s = max(self._save_every_s, self._save_took_s / _MOST_OF_TIME)
        is_due = monotonic() - self._saved_at >= wait_s
        is_due, is_requested = (share > 0 for share in mean_over_processes([is_due, self._is_requested()]))
        is_last = step >= n_steps
        self.must_stop = is_requested and not is_last
        self.must_save = is_due or is_requested or is_last or step % self._save_every == 0
        return True

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Takes the time of a save."""
        started = monotonic()
        yield
        self._saved_at = monotonic()
        self._save_took_s = self._saved_at - started
