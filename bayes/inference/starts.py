"""Starting points: several candidates a chain, the best finite one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.errors import InitError
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["find_starts"]

_RADII = (2.0, 1.0, 0.5, 0.1)


def find_starts(
    problem: Problem, key: Array, chains: int, candidates: int, strategy: Callable | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """One start a chain, each the best of its own candidates.

    Parameters
    ----------
    problem : Problem
        Model and data.
    key : key
        Random key.
    chains, candidates : int
        Starts to return, and candidates for each.
    strategy : callable, optional
        One of NumPyro's init strategies. By default candidates are uniform on the unconstrained
        space within several radii.

    Returns
    -------
    positions : array of shape (chains, d)
    info : dict
        How many candidates had a log density or a gradient that is not finite.

    Raises
    ------
    InitError
        Where a chain has no candidate with a finite log density and gradient; names the sites.
    """
    count = chains * candidates
    if strategy is None:
        uniform = np.asarray(
            jax.random.uniform(key, (count, problem.size), minval=-1.0, maxval=1.0)
        )
        radii = np.resize(np.asarray(_RADII), count)
        positions = uniform * radii[:, None]
    else:
        positions = problem.starts(key, count, strategy)
    values, gradients = _evaluate(problem, positions)
    steep = np.isfinite(gradients).all(axis=1)
    finite = np.isfinite(values) & steep
    info = {
        "candidates": count,
        "candidates_nan": int(np.isnan(values).sum()),
        "candidates_infinite": int(np.isinf(values).sum()),
        "candidates_nan_gradient": int((np.isfinite(values) & ~steep).sum()),
    }
    score = np.where(finite, values, -np.inf).reshape(chains, candidates)
    if not finite.any():
        raise InitError(_no_start(problem, positions, values, steep))
    best = score.argmax(axis=1)
    starts = positions.reshape(chains, candidates, -1)[np.arange(chains), best]
    # A chain without any finite candidate starts from another's runner-up.
    ranking = iter(np.argsort(np.where(finite, -values, np.inf))[: finite.sum()].tolist() * chains)
    taken = {tuple(s) for s, ok in zip(starts, np.isfinite(score.max(axis=1)), strict=True) if ok}
    for chain in np.flatnonzero(~np.isfinite(score.max(axis=1))):
        spare = next((i for i in ranking if tuple(positions[i]) not in taken), None)
        starts[chain] = positions[
            int(np.argmax(np.where(finite, values, -np.inf))) if spare is None else spare
        ]
        taken.add(tuple(starts[chain]))
    return starts, info


def _evaluate(problem: Problem, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    program = problem.program
    with double_precision():
        run = program.once(
            "candidates",
            lambda: jax.jit(
                lambda p, a: jax.lax.map(
                    lambda one: jax.value_and_grad(program.log_density)(one, a), p
                )
            ),
        )
        values, gradients = run(positions, problem.arrays)
        return np.asarray(values), np.asarray(gradients)


def _no_start(
    problem: Problem, positions: np.ndarray, values: np.ndarray, steep: np.ndarray
) -> str:
    """Name the sites whose log probability is not finite, and say how."""
    count = len(positions)
    head = f"no start with a finite log density and gradient among {count} candidates: "
    if np.isfinite(values).any():
        return head + (
            "the log density is finite but its gradient is not; a jnp.where with an invalid "
            "branch does this (make both branches finite)"
        )
    try:
        parts = problem.site_log_probs(problem.constrain(positions[:20]), lead=1)
    except Exception:
        return head + "the log density is never finite"
    words = []
    for name, value in parts.items():
        total = value.reshape(len(value), -1).sum(axis=1)
        if np.isnan(total).all():
            words.append(f"site '{name}' has log probability NaN")
        elif not np.isfinite(total).any():
            sign = "+inf" if (total > 0).all() else "-inf"
            words.append(f"site '{name}' has log probability {sign}")
    return (
        head
        + ("; ".join(words) or "the sum over sites is never finite")
        + ("; pass init_strategy= with values near the data, or check the priors")
    )
