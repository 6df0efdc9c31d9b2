"""The warm-up's stages, and what is learned between them from all chains together."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

__all__ = ["Stage", "far_chains", "stages"]

TARGETS = (0.8, 0.95, 0.99)
"""Target acceptances that are tried in turn while trial draws diverge."""

_GROWTH = 1.7


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of iterations with one metric.

    Parameters
    ----------
    name : {"adapt", "settle", "trial", "sample"}
        ``adapt`` ends with a new metric, ``settle`` finds the step size for the last metric,
        ``trial`` looks for divergences with everything fixed, ``sample`` gives the draws.
    length : int
        Iterations.
    depth : int
        Deepest tree: the first metrics are poor, and long trees are wasted on them.
    """

    name: str
    length: int
    depth: int


def stages(warmup: int, draws: int, max_depth: int) -> tuple[Stage, ...]:
    """Split a warm-up into windows that grow by a constant factor, a settling and a trial.

    Parameters
    ----------
    warmup, draws : int
        Iterations of warm-up and of sampling.
    max_depth : int
        Deepest tree of the sampler.

    Returns
    -------
    tuple of Stage
    """
    settle = max(1, min(100, warmup // 8))
    trial = min(100, warmup // 8)
    left = max(1, warmup - settle - trial)
    windows: list[int] = []
    length = min(30, left)
    while left > 0:
        # A rest too short for the next window joins the last one.
        take = left if left < length * (1 + _GROWTH) else length
        windows.append(take)
        left -= take
        length = int(np.ceil(length * _GROWTH))
    shallow = [min(max_depth, d) for d in (6, 7, 8)]
    adapt = tuple(
        Stage("adapt", n, shallow[i] if i < len(shallow) else max_depth)
        for i, n in enumerate(windows)
    )
    end = (Stage("settle", settle, max_depth), Stage("trial", trial, max_depth))
    return (*adapt, *end, Stage("sample", draws, max_depth))


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
