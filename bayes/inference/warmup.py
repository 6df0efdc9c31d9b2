"""The warm-up's stages, and what is learned between them from all chains together."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from bayes.inference.metric import (
    Metric,
    difficulty,
    draws_for_structure,
    estimate_metric,
)

__all__ = [
    "MOST_WARMUP",
    "TARGETS",
    "Stage",
    "common_step",
    "far_chains",
    "is_below",
    "is_settled",
    "stages",
]

TARGETS = (0.85, 0.95, 0.99)
"""Target acceptances that are tried in turn while draws diverge."""

MOST_WARMUP = 1000
"""Iterations after which a warm-up that ends by itself ends anyway."""

_FIRST, _GROWTH, _SETTLE = 12, 1.5, 60
_FEWEST_WINDOWS = 4
_SHALLOW = (5, 6, 7, 8)
_EASIER, _MIXED = 1.3, 1.2
_SMALLER, _LARGER = -0.2, 0.4


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of iterations with one metric.

    Parameters
    ----------
    name : {"adapt", "settle", "sample"}
        ``adapt`` ends with a new metric, ``settle`` finds the step size for the last metric,
        ``sample`` gives the draws.
    length : int
        Iterations.
    depth : int
        Deepest tree: the first metrics are poor, and long trees are wasted on them.
    last : bool
        Whether the warm-up may end after it, where it has settled.
    """

    name: str
    length: int
    depth: int
    last: bool = False


def stages(warmup: int | None, draws: int, max_depth: int) -> tuple[Stage, ...]:
    """Split a warm-up into windows that grow by a constant factor, and a settling of the step size.

    Parameters
    ----------
    warmup : int or None
        Iterations of warm-up; None for one that ends when it has settled.
    draws : int
        Iterations of sampling, or of its beginning.
    max_depth : int
        Deepest tree of the sampler.

    Returns
    -------
    tuple of Stage
    """
    total = MOST_WARMUP if warmup is None else warmup
    settle = max(1, min(_SETTLE, total // 6))
    left = max(1, total - settle)
    windows: list[int] = []
    length = min(_FIRST, left)
    while left > 0:
        # A rest too short for the next window joins the last one.
        take = left if left < length * (1 + _GROWTH) else length
        windows.append(take)
        left -= take
        length = int(np.ceil(length * _GROWTH))
    adapt = tuple(
        Stage(
            "adapt",
            n,
            min(max_depth, _SHALLOW[i]) if i < len(_SHALLOW) else max_depth,
            warmup is None and i + 1 >= _FEWEST_WINDOWS,
        )
        for i, n in enumerate(windows)
    )
    end = Stage("settle", settle, max_depth)
    return (*adapt, end, Stage("sample", draws, max_depth))


def is_settled(
    metric: Metric,
    kind: str,
    draws: Float[np.ndarray, "n d"],
    gradients: Float[np.ndarray, "n d"],
    log_density: Float[np.ndarray, "chains m"],
) -> bool:
    """Whether another window would hardly help.

    It would not where the metric of the window is nearly as good on held-out draws of it as one
    learned from the others, and where the chains agree about the log density.

    Parameters
    ----------
    metric : Metric
        The metric of the window.
    kind : str
        Kind of metric to estimate.
    draws, gradients : array of shape (n, d)
        Draws of all chains in the window.
    log_density : array of shape (chains, m)
        Log density along each chain in the window.
    """
    one, other = slice(0, None, 2), slice(1, None, 2)
    n, d = draws.shape
    if n < (20 if kind == "diagonal" else 2 * draws_for_structure(d, full=metric.full)):
        return False
    new = estimate_metric(kind, draws[one], gradients[one], full=metric.full)
    there = draws[other], gradients[other]
    if difficulty(metric, *there) > _EASIER * difficulty(new, *there):
        return False
    within = log_density.var(axis=1, ddof=1).mean()
    between = log_density.mean(axis=1).var(ddof=1) if len(log_density) > 1 else 0.0
    return bool(between <= (_MIXED**2 - 1.0) * within)


def common_step(
    averages: Float[np.ndarray, " chains"],
    log_steps: Float[np.ndarray, "chains n"],
    acceptance: Float[np.ndarray, "chains n"],
    target: float,
) -> float:
    """The log step size of all chains.

    Dual averaging swings about its target, and since acceptance is concave in the log of the step
    size, the average step is accepted more often than that. A parabola through the acceptances of
    all chains says how much longer steps may be.

    Parameters
    ----------
    averages : array of shape (chains,)
        Dual averaging's average log step of each chain.
    log_steps, acceptance : array of shape (chains, n)
        Log step size and acceptance of the iterations that settled it.
    target : float
        Acceptance to aim at.
    """
    centre = float(np.median(averages))
    near = np.abs(log_steps - centre) < 1.0
    if near.sum() < 40:
        return centre
    curve = np.polyfit(log_steps[near] - centre, acceptance[near], 2)
    # From the centre outward: the parabola may rise again beyond the steps that were taken.
    direction = _LARGER if np.polyval(curve, 0.0) >= target else _SMALLER
    shifts = np.linspace(0.0, direction, 41)
    enough = np.polyval(curve, shifts) >= target
    change = np.flatnonzero(enough != enough[0])
    return centre + float(shifts[change[0]] if len(change) else direction)


def far_chains(
    log_density: Float[np.ndarray, "chains n"], positions: Float[np.ndarray, "chains n d"]
) -> np.ndarray:
    """Chains that sit where there is next to no posterior mass.

    A chain's region has log mass of about mean(log p) + entropy; the entropy is taken from the
    chain's own spread. A chain is far when its mass is negligible beside the best chain's and its
    log densities do not overlap with the others'.

    Parameters
    ----------
    log_density : array of shape (chains, n)
        Log density along each chain.
    positions : array of shape (chains, n, d)
        Positions along each chain.

    Returns
    -------
    array of bool, shape (chains,)
    """
    half = log_density.shape[1] // 2
    recent, where = log_density[:, half:], positions[:, half:]
    dimension = positions.shape[2]
    spread = np.log(np.maximum(where.std(axis=1), 1e-12)).sum(axis=1)
    mass = recent.mean(axis=1) + np.clip(spread - spread.max(), -10.0 * dimension, 0.0)
    best = int(np.argmax(mass))
    gap = 20.0 + 0.5 * dimension
    below = recent.max(axis=1) < np.quantile(recent[best], 0.01)
    return (mass < mass[best] - gap) & below


def is_below(log_density: Float[np.ndarray, "chains n"]) -> Bool[np.ndarray, " chains"]:
    """Chains whose log densities all lie below nearly all of those of the chain with the most."""
    best = int(np.argmax(log_density.mean(axis=1)))
    return log_density.max(axis=1) < np.quantile(log_density[best], 0.01)
