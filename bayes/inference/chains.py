"""Chains side by side: each runs the same compiled function in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from bayes.inference.blocks import Adaptation, Orders, block_function
from bayes.inference.metric import Metric
from bayes.inference.pacing import Pace, block_size
from bayes.inference.randomness import momenta, trajectory_seeds
from bayes.inference.transitions import Point
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["compile_block", "run_block"]

_BLOCK_NUMBERS = 10**6


def compile_block(
    problem: Problem, transition: Callable, key: tuple, metric: Metric
) -> Future[Callable]:
    """The compiled block of a program; where it is new, compilation goes on in a thread.

    Parameters
    ----------
    problem : Problem
        Model and data.
    transition : callable
        As for ``block_function``.
    key : tuple
        What the transition depends on besides the program.
    metric : Metric
        A metric, for its form.

    Returns
    -------
    Future
        Gives the compiled block.
    """
    program, d = problem.program, problem.size
    shapes: list[Any] = [jax.ShapeDtypeStruct(np.shape(v), v.dtype) for v in metric]
    name = ("block", key, *(s.shape for s in shapes))
    if name in program.compiled:
        return program.compiled[name]
    split, size = program.gradient(problem.arrays), block_size(d, _BLOCK_NUMBERS)
    number, whole = _shape(), _shape(dtype=np.int64)
    return program.compile_ahead(
        name,
        block_function(split.run, transition),
        Point(_shape(d), number, _shape(d)),
        Adaptation(number, _shape(5)),
        Orders(
            _shape(size, d),
            _shape(size, dtype=np.uint64),
            whole,
            _shape(dtype=np.bool_),
            number,
            whole,
        ),
        Metric(*shapes),
        problem.prepared_shapes,
    )


def _shape(*shape: int, dtype: Any = np.float64) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def run_block(
    problem: Problem,
    state: dict[str, Any],
    metric: Metric,
    block: Future[Callable],
    *,
    most: int,
    adapt: bool,
    target: float,
    depth: int,
) -> dict[str, Any]:
    """Run some iterations of every chain.

    Chains are not batched into one computation: there each would wait for the longest trajectory.
    The draws do not depend on the number of threads, nor on how many iterations a block has.

    Parameters
    ----------
    problem : Problem
        Model and data.
    state : dict
        The sampler's state.
    metric : Metric
        Metric of all chains.
    block : Future
        The compiled block.
    most : int
        Iterations at most.
    adapt : bool
        Whether step sizes adapt.
    target : float
        Acceptance that they aim at.
    depth : int
        Deepest tree.

    Returns
    -------
    dict
        ``count`` iterations; ``carry``, the chains' new places; ``position`` and ``gradient`` of
        shape (chain, count, d); ``stats`` of shape (chain, count).
    """
    size, pace = block_size(problem.size, _BLOCK_NUMBERS), problem.program.once("pace", Pace)
    count = pace.count(min(most, size))
    compiled, prepared = block.result(), problem.prepared
    first = int(state["iteration"])

    def run(chain: int) -> Any:
        kicks = np.zeros((size, problem.size))
        stream = momenta(state["streams"][chain], kicks[:count])
        seeds = np.zeros(size, np.uint64)
        seeds[:count] = trajectory_seeds(state["seeds"][chain], first, count)
        orders = Orders(
            kicks,
            seeds,
            np.asarray(count),
            np.asarray(adapt),
            np.asarray(target),
            np.asarray(depth),
        )
        point = Point(state["x"][chain], state["lp"][chain], state["gradient"][chain])
        adaptation = Adaptation(state["log_step"][chain], state["averaging"][chain])
        with double_precision():
            point, adaptation, rows = compiled(point, adaptation, orders, metric, prepared)
            rows = {k: np.asarray(v)[:count] for k, v in rows.items()}
            carry = {
                k: np.asarray(v) for k, v in {**point._asdict(), **adaptation._asdict()}.items()
            }
        return {**carry, "streams": stream}, rows

    results = pace.run(run, len(state["x"]), count)
    carry, stats = jax.tree.map(lambda *v: np.stack(v), *results)
    return {
        "count": count,
        "carry": carry,
        "position": stats.pop("position"),
        "gradient": stats.pop("gradient"),
        "stats": stats,
    }
