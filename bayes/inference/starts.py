"""Starting points: several candidates a chain, the best finite one is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.errors import InitError
from bayes.inference.randomness import Purpose, generator_of
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["Starts", "ascend", "evaluate", "find_starts"]

_RADII = (2.0, 1.0, 0.5, 0.1)
_AT_ONCE = 20
_MOST_STEPS = 200


class Starts(NamedTuple):
    """One start a chain.

    Parameters
    ----------
    positions, gradients : array of shape (chains, d)
        Where the chains start, and the gradient of the log density there.
    density : array of shape (chains,)
        Log density there.
    info : dict
        How many candidates had a log density or a gradient that is not finite.
    """

    positions: np.ndarray
    density: np.ndarray
    gradients: np.ndarray
    info: dict[str, Any]


def find_starts(
    problem: Problem,
    key: Array | np.ndarray,
    chains: int,
    candidates: int,
    strategy: Callable | None,
    *path: int,
) -> Starts:
    """One start a chain, each the best of its own candidates.

    Parameters
    ----------
    problem : Problem
        Model and data.
    key : key, or array of uint32
        Random key, or its data.
    chains, candidates : int
        Starts to return, and candidates for each.
    strategy : callable, optional
        One of NumPyro's init strategies. By default candidates are uniform on the unconstrained
        space within several radii.
    *path : int
        Tells one call with the same key from another.

    Returns
    -------
    Starts

    Raises
    ------
    InitError
        Where a chain has no candidate with a finite log density and gradient; names the sites.
    """
    count = chains * candidates
    generator = generator_of(key, Purpose.STARTS, *path)
    if strategy is None:
        uniform = generator.uniform(-1.0, 1.0, (count, problem.size))
        positions = uniform * np.resize(np.asarray(_RADII), count)[:, None]
    else:
        words = generator.integers(2**32, size=2, dtype=np.uint32)
        positions = problem.starts(jax.random.wrap_key_data(jnp.asarray(words)), count, strategy)
    values, gradients = evaluate(problem, positions)
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
    chosen = score.argmax(axis=1) + np.arange(chains) * candidates
    # A chain without any finite candidate starts from another's runner-up.
    missing = np.flatnonzero(~np.isfinite(score.max(axis=1)))
    taken = set(np.delete(chosen, missing).tolist())
    ranking = [i for i in np.argsort(-score.ravel()).tolist() if finite[i]]
    spare = [i for i in ranking if i not in taken] or ranking
    for place, chain in enumerate(missing):
        chosen[chain] = spare[place % len(spare)]
    return Starts(positions[chosen], values[chosen], gradients[chosen], info)


def ascend(
    problem: Problem,
    position: Float[np.ndarray, " d"],
    level: float,
    scale: Float[np.ndarray, " d"],
) -> Float[np.ndarray, " d"]:
    """Climb from a start until the log density is what it is elsewhere in the posterior.

    A chain that starts far out, where a scale is wrong by magnitudes, may take more iterations to
    arrive than a warm-up has. Up to the level of the chains that have arrived, and no further:
    the highest densities may be where there is no mass.

    Parameters
    ----------
    problem : Problem
        Model and data.
    position : array of shape (d,)
        Start.
    level : float
        Log density to stop at.
    scale : array of shape (d,)
        Scales of the coordinates, as far as they are known.

    Returns
    -------
    array of shape (d,)
        The highest place that was found, which may be below the level.

    References
    ----------
    Byrd, Lu, Nocedal and Zhu (1995), A limited memory algorithm for bound constrained optimization.
    """
    from scipy.optimize import minimize

    best, highest = position, -np.inf  # the first place that is looked at is the start

    def height(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, highest
        place = position + scale * u
        values, gradients = evaluate(problem, place[None])
        value, slope = float(values[0]), scale * gradients[0]
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            # A little worse than the best: the line search halves its step, and goes on.
            return 1.0 + abs(highest) - highest, np.zeros_like(u)
        if value > highest:
            best, highest = place, value
        if value >= level:
            raise StopIteration
        return -value, -slope

    with contextlib.suppress(StopIteration):
        minimize(
            height,
            np.zeros_like(position),
            jac=True,
            method="L-BFGS-B",
            options={"maxfun": _MOST_STEPS},
        )
    return best


def evaluate(
    problem: Problem, positions: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """Log density and gradient at positions, a fixed number at once.

    Parameters
    ----------
    problem : Problem
        Model and data.
    positions : array of shape (n, d)
        Positions.

    Returns
    -------
    densities : array of shape (n,)
    gradients : array of shape (n, d)
    """
    split = problem.program.gradient(problem.arrays)
    whole = -(-len(positions) // _AT_ONCE) * _AT_ONCE
    padded = np.resize(positions, (whole, problem.size)).reshape(-1, _AT_ONCE, problem.size)
    run = problem.program.compile_ahead(
        "candidates",
        lambda p, a: jax.lax.map(lambda one: split.run(one, a), p),
        jax.ShapeDtypeStruct(padded.shape[1:], np.float64),
        problem.prepared_shapes,
        quickly=True,
    ).result()
    with double_precision():
        found = [jax.tree.map(np.asarray, run(part, problem.prepared)) for part in padded]
    values, gradients = (np.concatenate(v)[: len(positions)] for v in zip(*found, strict=True))
    return values, gradients


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
