"""Draws of an approximation resampled by their importance weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes.diagnostics.importance import Ratios, importance_ratios, nearly_equal
from bayes.errors import NoDrawsError
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Draws

__all__ = ["choose", "importance_info", "resample"]


def choose(
    log_weights: Float[np.ndarray, " n"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, " count"]:
    """Indices of draws by their weights, in random order.

    Systematic: each draw comes as often as its weight says, up to one. (Kitagawa 1996, Monte Carlo
    filter and smoother for non-Gaussian nonlinear state space models.)
    """
    edges = np.cumsum(np.exp(log_weights - np.max(log_weights)))
    marks = (np.arange(count) + generator.uniform()) * (edges[-1] / count)
    chosen = np.minimum(np.searchsorted(edges, marks, side="right"), len(edges) - 1)
    return generator.permutation(chosen)


def importance_info(ratios: Ratios) -> dict[str, Any]:
    """What the verdict needs to know of the ratios that draws were resampled by, as JSON values."""
    return {
        "khat": float(np.clip(ratios.khat, -1e308, 1e308)),
        "ess": ratios.ess,
        "candidates": len(ratios.log_ratios),
        "nearly_equal": nearly_equal(ratios),
    }


def resample(
    draws: Draws, words: np.ndarray, count: int | None = None, *, ratios: Ratios | None = None
) -> Draws:
    """Draws chosen from an approximation's draws by Pareto-smoothed importance weights.

    Parameters
    ----------
    draws : Draws
        Independent draws with ``lp`` and ``log_q``.
    words : array of uint32
        Data of a key.
    count : int, optional
        How many to choose; as many as there are by default.
    ratios : Ratios, optional
        Their ratios, where they are known already.

    Returns
    -------
    Draws
        As one chain.

    Raises
    ------
    NoDrawsError
        Where no draw has posterior density.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    assert draws.log_q is not None
    lp, log_q = np.ravel(draws.stats["lp"]), np.ravel(draws.log_q)
    unbounded = bool(np.any(lp == np.inf))
    lp = np.where(lp < np.inf, lp, -np.inf)  # also where it is NaN
    if not np.isfinite(lp).any():
        raise NoDrawsError("no draw of the approximation has a finite log density")
    ratios = importance_ratios(lp, log_q) if ratios is None else ratios
    if unbounded:  # the others' ratios say nothing of it
        ratios = dataclasses.replace(ratios, khat=np.inf)
    generator = generator_of(words, Purpose.RESAMPLING)
    chosen = choose(ratios.log_weights, len(lp) if count is None else count, generator)

    def pick(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, len(lp), *values.shape[2:])[:, chosen]

    return dataclasses.replace(
        draws,
        values={k: pick(np.asarray(v)) for k, v in draws.values.items()},
        stats={k: pick(v) for k, v in draws.stats.items()},
        chains=1,
        positions=None if draws.positions is None else pick(draws.positions),
        log_q=pick(draws.log_q),
        info={**draws.info, "route": "psis", "importance": importance_info(ratios)},
        candidates={"lp": lp, "log_q": log_q},
    )
