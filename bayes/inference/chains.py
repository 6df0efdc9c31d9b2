"""Chains side by side: each runs the same compiled function in a thread of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes.inference.blocks import block_function, restart_function
from bayes.inference.transitions import Point
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["enter_coordinates", "run_block"]

BLOCK_SECONDS = 0.5
"""What a block is meant to take: Ctrl-C, budgets and checkpoints wait no longer than that."""

_FIRST_BLOCK, _LARGEST_BLOCK, _BLOCK_NUMBERS = 5, 100, 4 * 10**6
_SMALLEST_STEP, _LARGEST_STEP, _FALLBACK_STEP = 1e-10, 1e3, 1e-3


def run_block(
    problem: Problem,
    state: dict[str, Any],
    transition: Callable,
    *,
    key: tuple,
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
        The sampler's state; ``left`` bounds the iterations.
    transition : callable
        One transition in whitened coordinates.
    key : tuple
        What the compiled transition depends on besides the program.
    adapt : bool
        Whether step sizes adapt.
    target : float
        Acceptance that they aim at.
    depth : int
        Deepest tree.

    Returns
    -------
    dict
        ``count`` iterations; ``carry``, the chains' new places; ``position`` and
        ``whitened_gradient`` of shape (chain, count, d); ``stats`` of shape (chain, count).
    """
    program, factor = problem.program, state["factor"]
    size = max(1, min(_LARGEST_BLOCK, _BLOCK_NUMBERS // max(problem.size, 1)))
    pace = program.once(("pace", key), dict)
    seconds = pace.get("seconds")
    wanted = _FIRST_BLOCK if seconds is None else int(BLOCK_SECONDS / max(seconds, 1e-9))
    count = max(1, min(int(state["left"]), size, wanted))
    chain_key = jax.random.wrap_key_data(jnp.asarray(state["key"]))

    def arguments(chain: int) -> tuple:
        point = Point(state["z"][chain], state["potential"][chain], state["gradient"][chain])
        return (
            point,
            state["log_step"][chain],
            state["averaging"][chain],
            jax.random.fold_in(chain_key, chain),
            np.asarray(int(state["iteration"])),
            np.asarray(count),
            np.asarray(adapt),
            np.asarray(target),
            np.asarray(depth),
            factor,
            problem.arrays,
        )

    def compile_block() -> Callable:
        block = block_function(program.log_density, transition, size)
        return jax.jit(block).lower(*arguments(0)).compile()

    def run(chain: int) -> Any:
        with double_precision():
            return jax.tree.map(np.asarray, compiled(*arguments(chain)))

    with double_precision():
        compiled = program.once(("block", key, factor.ndim, size), compile_block)
        begin = time.perf_counter()
        chains = range(len(state["z"]))
        with ThreadPoolExecutor(min(len(chains), os.cpu_count() or 1)) as pool:
            results = list(pool.map(run, chains))
        pace["seconds"] = (time.perf_counter() - begin) / count
    (point, log_step, averaging), buffers = jax.tree.map(lambda *v: np.stack(v), *results)
    stats = {k: v[:, :count] for k, v in buffers.items()}
    return {
        "count": count,
        "carry": {**point._asdict(), "log_step": log_step, "averaging": averaging},
        "position": stats.pop("position"),
        "whitened_gradient": stats.pop("whitened_gradient"),
        "stats": stats,
    }


def enter_coordinates(
    problem: Problem,
    state: dict[str, Any],
    z: np.ndarray,
    factor: np.ndarray,
    log_step: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Evaluate every chain at its place in new coordinates and search a step size there.

    Parameters
    ----------
    problem : Problem
        Model and data.
    state : dict
        The sampler's state, for its keys.
    z : array of shape (chain, d)
        Whitened positions.
    factor : array of shape (d,) or (d, d)
        The metric's factor.
    log_step : array of shape (chain,)
        Where the search begins.

    Returns
    -------
    point : dict
        ``z``, ``potential`` and ``gradient`` of every chain.
    steps : array of shape (chain,)
        Step sizes.
    """
    program = problem.program
    found = []
    with double_precision():
        key = jax.random.wrap_key_data(jnp.asarray(state["step_key"]))
        key = jax.random.fold_in(key, int(state["iteration"]))
        run = program.once(
            ("restart", factor.ndim), lambda: jax.jit(restart_function(program.log_density))
        )
        for chain, place in enumerate(z):
            step = np.exp(log_step[chain])
            out = run(place, factor, step, jax.random.fold_in(key, chain), problem.arrays)
            found.append([np.asarray(v) for v in out])
    potential, gradient, steps = (np.stack(v) for v in zip(*found, strict=True))
    steps = np.where(np.isfinite(steps), steps, _FALLBACK_STEP)
    point = {"z": z, "potential": potential, "gradient": gradient}
    return point, np.clip(steps, _SMALLEST_STEP, _LARGEST_STEP)
