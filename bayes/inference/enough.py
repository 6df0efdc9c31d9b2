"""Whether a run has enough draws, from batch means that are cheap to keep.

Batch means estimate the integrated autocorrelation time (Flegal and Jones 2010); split chains give
the plain R-hat. Both are of the unconstrained coordinates. They are looked at once every doubling
of the number of draws, so that what they stop on is hardly selected.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["add_draws", "empty_batches", "has_enough"]

BATCH = 20
_MOST_COORDINATES = 2000
_ESS, _RHAT = 500.0, 1.01
"""An effective sample size a quarter above what the verdict asks, for the estimate's own noise."""


def empty_batches(chains: int, dimension: int) -> dict[str, np.ndarray]:
    """Batches without draws; every so-and-so-many-th coordinate is kept where there are many."""
    kept = min(dimension, _MOST_COORDINATES)
    return {
        "pending": np.zeros((chains, 0, kept)),
        "batch_means": np.zeros((chains, 0, kept)),
        "batch_squares": np.zeros((chains, 0, kept)),
    }


def add_draws(
    batches: dict[str, np.ndarray], positions: Float[np.ndarray, "chain draw d"]
) -> dict[str, np.ndarray]:
    """Batches with further draws."""
    dimension = positions.shape[2]
    kept = batches["pending"].shape[2]
    chosen = np.linspace(0, dimension - 1, kept).round().astype(int)
    draws = np.concatenate([batches["pending"], positions[:, :, chosen]], axis=1)
    full = draws.shape[1] // BATCH * BATCH
    whole = draws[:, :full].reshape(len(draws), -1, BATCH, kept)
    return {
        "pending": draws[:, full:],
        "batch_means": np.concatenate([batches["batch_means"], whole.mean(axis=2)], axis=1),
        "batch_squares": np.concatenate(
            [batches["batch_squares"], np.square(whole).mean(axis=2)], axis=1
        ),
    }


def has_enough(batches: dict[str, np.ndarray]) -> bool:
    """Whether every coordinate has the effective sample size, and chains agree."""
    means, squares = batches["batch_means"], batches["batch_squares"]
    chains, count, _ = means.shape
    if count < 4:
        return False
    # Batches of about the square root of the chain's length.
    merge = int(np.clip(np.sqrt(count * BATCH) / BATCH, 1, count // 2).round())
    cut = count // merge * merge
    merged = means[:, :cut].reshape(chains, -1, merge, means.shape[2]).mean(axis=2)
    variance = squares.mean(axis=(0, 1)) - means.mean(axis=(0, 1)) ** 2
    variance = np.maximum(variance, 1e-300)
    spread = merged.reshape(-1, means.shape[2]).var(axis=0, ddof=1)
    ess = chains * count * BATCH * variance / np.maximum(spread * merge * BATCH, 1e-300)
    half = count // 2
    halves = np.stack([means[:, :half].mean(axis=1), means[:, -half:].mean(axis=1)])
    between = halves.reshape(-1, means.shape[2]).var(axis=0, ddof=1)
    within = np.maximum(variance - between, 1e-300)
    rhat = np.sqrt(1.0 + between / within)
    return bool((ess >= _ESS).all() and (rhat < _RHAT).all())
