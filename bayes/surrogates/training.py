"""Training of networks on fresh simulations: schedule, averaged weights, budget, checkpoints."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from bayes.checkpoint import Checkpoint
from bayes.driver import Stop
from bayes.errors import NoDrawsError
from bayes.precision import simulating, single_precision

__all__ = ["Lesson", "Schedule", "Trained", "train"]


class Lesson(NamedTuple):
    """What a network is taught, batch by batch.

    Parameters
    ----------
    draw : callable
        From a key to a batch of fresh simulations, a pytree of arrays; in double precision.
    loss : callable
        From a network and such a batch to its mean loss; in single precision.
    """

    draw: Callable[[Array], Any]
    loss: Callable[[Any, Any], Array]


_BLOCK = 20
"""Steps between looks at the clock."""
_SECONDS_BETWEEN_CHECKPOINTS = 10.0
_TRACE = 500
"""Numbers of the loss's trace that are kept."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained.

    Parameters
    ----------
    steps : int
        Steps of the optimizer.
    learning_rate : float
        Largest step size of Adam; it rises over the first twentieth and falls by a cosine to zero.
    average : float
        Decay of the running average of the weights, which are what is kept.
    """

    steps: int
    learning_rate: float
    average: float = 0.999

    def rate(self, progress: float) -> float:
        """Step size at a share of the whole."""
        rise = min(1.0, (progress + 1e-3) / 0.05)
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class Trained(NamedTuple):
    """A trained network and how that went.

    Parameters
    ----------
    network : equinox.Module
        With averaged weights.
    steps : int
        Steps taken.
    seconds : float
        Wall time, of earlier parts of the run, too.
    loss : list of float
        Trace of the loss, means of equal parts of the run.
    interrupted : str or None
        ``"keyboard"`` or ``"budget"`` where it was stopped before its last step.
    """

    network: Any
    steps: int
    seconds: float
    loss: list[float]
    interrupted: str | None


def train(
    network: Any,
    lessons: Sequence[Lesson],
    schedule: Schedule,
    key: Array,
    *,
    budget: float | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
    name: str = "amortize",
) -> Trained:
    """Train a network on simulations that are drawn by compiled functions, block by block.

    Parameters
    ----------
    network : equinox.Module
        With its first weights.
    lessons : sequence of Lesson
        For batches of different shapes, taken in turn.
    schedule : Schedule
        Steps and their size.
    key : key
        Random key; the same key gives the same weights to the bit, unless a budget ends the run.
    budget : float, optional
        Seconds, with compilation; the schedule then ends with them, so that the weights depend on
        the machine's speed.
    checkpoint : Checkpoint, optional
        Where the state is kept, every ten seconds and at the end.
    progress : bool, optional
        Whether to show a progress line; by default where stderr is a terminal.
    name : str
        What the progress line is called.

    Returns
    -------
    Trained

    Raises
    ------
    NoDrawsError
        Where it was stopped before its first block of steps was done.
    """
    weights, static = eqx.partition(network, eqx.is_array)
    optimizer = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.98)), 10**6
    )
    with single_precision():
        blocks = [_compiled(lesson, static, optimizer, schedule.average) for lesson in lessons]
        state = {
            "weights": weights,
            "averaged": weights,
            "optimizer": optimizer.init(weights),
            "key": jax.random.key_data(key),
            "step": np.asarray(0),
            "seconds": np.asarray(0.0),
        }
        trace: list[float] = []
        kept = checkpoint.load(state) if checkpoint is not None else None
        if kept is not None:
            state, chunks = kept
            trace = [float(v) for c in chunks for v in c["loss"]]
        state, trace, interrupted = _run(
            state,
            blocks,
            schedule,
            trace,
            budget,
            checkpoint,
            _line(progress, name, schedule.steps),
        )
    averaged = eqx.combine(jax.tree.map(jnp.asarray, state["averaged"]), static)
    return Trained(
        averaged, int(state["step"]), float(state["seconds"]), _thinned(trace), interrupted
    )


def _run(
    state: dict[str, Any],
    blocks: list[Callable],
    schedule: Schedule,
    trace: list[float],
    budget: float | None,
    checkpoint: Checkpoint | None,
    line: Any,
) -> tuple[dict[str, Any], list[float], str | None]:
    began, before = time.perf_counter(), float(state["seconds"])
    saved, unsaved = began, 0
    interrupted, stop = None, Stop()
    with stop.listening():
        try:
            while int(state["step"]) < schedule.steps:
                spent = time.perf_counter() - began
                if stop.asked or (budget is not None and spent >= budget):
                    interrupted = "keyboard" if stop.asked else "budget"
                    break
                step = int(state["step"])
                share = max(step / schedule.steps, 0.0 if budget is None else spent / budget)
                count = min(_BLOCK, schedule.steps - step)
                block = blocks[(step // _BLOCK) % len(blocks)]
                rate = schedule.rate(share)
                weights, averaged, inner, losses = block(
                    state["weights"],
                    state["averaged"],
                    state["optimizer"],
                    state["key"],
                    step,
                    jnp.where(jnp.arange(_BLOCK) < count, rate, 0.0),
                )
                trace.append(float(losses))
                unsaved += 1
                state = {
                    **state,
                    "weights": weights,
                    "averaged": averaged,
                    "optimizer": inner,
                    "step": np.asarray(step + count),
                    "seconds": np.asarray(before + time.perf_counter() - began),
                }
                now = time.perf_counter()
                if checkpoint is not None and now - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    checkpoint.save(state, {"loss": np.asarray(trace[-unsaved:])})
                    saved, unsaved = now, 0
                if line is not None:
                    line.set_postfix_str(f"loss {trace[-1]:.4g}", refresh=False)
                    line.update(int(state["step"]) - line.n)
        finally:
            if line is not None:
                line.close()
            if checkpoint is not None and unsaved:
                checkpoint.save(state, {"loss": np.asarray(trace[-unsaved:])})
    if not trace:
        raise NoDrawsError(
            f"training was stopped ({interrupted}) before its first steps; give it more time",
            interrupted,
        )
    return state, trace, interrupted


def _compiled(lesson: Lesson, static: Any, optimizer: Any, decay: float) -> Callable:
    """Steps of the optimizer as compiled functions: one draws all batches, one learns from them."""

    def objective(weights: Any, batch: Any) -> Array:
        return lesson.loss(eqx.combine(weights, static), batch)

    @jax.jit
    def drawn(words: Array, first: Array) -> Any:
        key = jax.random.wrap_key_data(words)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(first + jnp.arange(_BLOCK))
        return jax.tree.map(_narrow, jax.lax.map(lesson.draw, keys))

    @jax.jit
    def learned(
        weights: Any, averaged: Any, inner: Any, batches: Any, first: Array, rates: Array
    ) -> tuple[Any, Any, Any, Array]:
        def step(carry: Any, given: Any) -> tuple[Any, Array]:
            weights, averaged, inner = carry
            number, rate, batch = given
            value, gradient = jax.value_and_grad(objective)(weights, batch)
            change, inner = optimizer.update(gradient, inner)
            weights = jax.tree.map(lambda w, c: w - rate * c, weights, change)
            # The average forgets the first weights quickly.
            share = jnp.maximum(1.0 - decay, 9.0 / (10.0 + number))
            averaged = jax.tree.map(lambda a, w: a + share * (w - a), averaged, weights)
            return (weights, averaged, inner), value

        numbers = first + jnp.arange(_BLOCK)
        carry, values = jax.lax.scan(step, (weights, averaged, inner), (numbers, rates, batches))
        return *carry, jnp.nanmean(values)

    def block(
        weights: Any, averaged: Any, inner: Any, words: Any, first: int, rates: Array
    ) -> tuple[Any, Any, Any, Array]:
        with simulating():
            batches = drawn(np.asarray(words), np.asarray(first))
        return learned(weights, averaged, inner, batches, first, rates)

    return block


def _narrow(value: Array) -> Array:
    """Numbers as a network takes them."""
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value.astype(jnp.float32)
    return value.astype(jnp.int32) if jnp.issubdtype(value.dtype, jnp.integer) else value


def _line(wanted: bool | None, name: str, steps: int) -> Any:
    if not (sys.stderr.isatty() if wanted is None else wanted):
        return None
    from tqdm import tqdm

    return tqdm(desc=name, total=steps, unit="step", file=sys.stderr, dynamic_ncols=True)


def _thinned(trace: list[float]) -> list[float]:
    parts = np.array_split(np.asarray(trace), min(len(trace), _TRACE))
    return [float(np.nanmean(part)) if np.isfinite(part).any() else float("nan") for part in parts]
