"""The driver: runs any method block by block, with progress, budget, interruption, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bayes.checkpoint import Checkpoint
from bayes.errors import NoDrawsError
from bayes.method import Chunk, Draws, Method, Progress, count_non_finite
from bayes.problem import Problem
from bayes.threefry import seed_key, split_key

__all__ = ["Outcome", "Stop", "drive"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Parameters
    ----------
    draws : Draws
        The draws.
    interrupted : str or None
        ``"keyboard"`` or ``"budget"`` where the run was stopped before it was done.
    seconds : float
        Wall time of this call.
    non_finite : int
        Numbers in the draws that are not finite.
    """

    draws: Draws
    interrupted: str | None
    seconds: float
    non_finite: int


class Stop:
    """Ctrl-C as a request: the first one ends the run after its block, the second at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note Ctrl-C rather than raise it, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _ProgressLine:
    """A tqdm line on stderr; nothing where it is off."""

    def __init__(self, name: str, wanted: bool | None) -> None:
        self.bar = None
        if sys.stderr.isatty() if wanted is None else wanted:
            from tqdm import tqdm

            self.bar = tqdm(desc=name, unit="it", file=sys.stderr, dynamic_ncols=True)

    def show(self, progress: Progress | None, divergences: int) -> None:
        if self.bar is None or progress is None:
            return
        self.bar.total = progress.total
        text = progress.text + (f", {divergences} divergences" if divergences else "")
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(progress.done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def drive(
    problem: Problem,
    method: Method,
    seed: int,
    *,
    budget: float | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
) -> Outcome:
    """Run a method until it is done, its time is up or the user stops it.

    Parameters
    ----------
    problem : Problem
        Model and data.
    method : Method
        Settings and mathematics.
    seed : int
        All randomness comes from it.
    budget : float, optional
        Seconds for this call. The block under way when they end is finished.
    checkpoint : Checkpoint, optional
        Where every block is kept, and an earlier run is resumed from.
    progress : bool, optional
        Whether to show a progress line; by default where stderr is a terminal.

    Returns
    -------
    Outcome

    Raises
    ------
    NoDrawsError
        Where the run was stopped before it had a draw.
    """
    begin = time.perf_counter()
    run_key, finish_key = split_key(seed_key(seed))
    stop, line = Stop(), _ProgressLine(method.name, progress)
    interrupted = None
    with stop.listening():
        try:
            state = method.init(problem, run_key)
            chunks: list[Chunk] = []
            resumed = checkpoint.load(state) if checkpoint is not None else None
            if resumed is not None:
                state, chunks = resumed
            divergences = sum(_divergences(c) for c in chunks)
            while not method.done(problem, state):
                if stop.asked:
                    interrupted = "keyboard"
                    break
                if budget is not None and time.perf_counter() - begin > budget:
                    interrupted = "budget"
                    break
                state, chunk = method.step(problem, state)
                if chunk is not None:
                    chunk = {k: np.asarray(v) for k, v in chunk.items()}
                    chunks.append(chunk)
                    divergences += _divergences(chunk)
                if checkpoint is not None:
                    checkpoint.save(state, chunk)
                line.show(method.progress(problem, state), divergences)
        finally:
            line.close()
        if not chunks:
            _stopped_early(method, problem, state, interrupted, checkpoint)
        draws = method.finish(problem, state, chunks, finish_key)
    non_finite = draws.non_finite
    if non_finite is None:
        non_finite = count_non_finite({k: np.asarray(v) for k, v in draws.values.items()})
    return Outcome(draws, interrupted, time.perf_counter() - begin, non_finite)


def _divergences(chunk: Chunk) -> int:
    return int(np.sum(chunk["diverging"])) if "diverging" in chunk else 0


def _stopped_early(
    method: Method,
    problem: Problem,
    state: Any,
    interrupted: str | None,
    checkpoint: Checkpoint | None,
) -> None:
    at: Callable[[], Progress | None] = lambda: method.progress(problem, state)  # noqa: E731
    progress = at()
    where = f" at {progress.text}, {progress.done} of {progress.total}" if progress else ""
    kept = (
        f"; call fit again with checkpoint='{checkpoint.folder}' to go on"
        if checkpoint is not None
        else "; give it more time, or checkpoint= to go on later"
    )
    raise NoDrawsError(
        f"{method.name} was stopped ({interrupted}) before its first draw{where}{kept}",
        interrupted,
    )
