"""Posterior draws from the simulations that are most like the data: neighbours, weights, slopes.

Beaumont, Zhang and Balding (2002), Approximate Bayesian computation in population genetics,
Genetics 162. Simulations are weighted by an Epanechnikov kernel of their distance from the data,
and a local-linear regression of parameters on summaries takes out what is left of the distance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from bayes.surrogates.fitting import fit_mixture
from bayes.surrogates.mixtures import Mixture

__all__ = ["Neighbours", "adjusted", "effective", "kernel", "local_mixture", "nearest", "tempered"]

_BLOCK = 65_536
"""Simulations whose distances are computed at once: few enough to stay in the cache of a core."""
_HALVINGS = 40
_LEAST_SQUARE = 1e-3
"""Share of the mean square below which a squared residual tells no more of the spread."""
_MOST_STRETCH = float(np.log(4.0))
_WIDEST = 2.0
"""Largest factor by which variances are inflated."""


class Neighbours(NamedTuple):
    """The nearest simulations, nearest first.

    Parameters
    ----------
    index : array of shape (k,)
        Their places in the bank.
    distance : array of shape (k,)
        Their distances, in units of the summaries.
    """

    index: Int[np.ndarray, " k"]
    distance: Float[np.ndarray, " k"]


def nearest(
    summaries: Float[np.ndarray, "n s"], query: Float[np.ndarray, " s"], count: int
) -> Neighbours:
    """The simulations with the nearest summaries, all of them looked at.

    Parameters
    ----------
    summaries : array of shape (n, s)
        Of the bank, each in units of its scale; a map of a file is read block by block.
    query : array of shape (s,)
        Summaries of the data.
    count : int
        How many, at most n.

    Returns
    -------
    Neighbours
    """
    squares = np.empty(len(summaries), np.float32)
    centre = np.asarray(query, np.float32)
    for start in range(0, len(summaries), _BLOCK):
        away = np.asarray(summaries[start : start + _BLOCK], np.float32) - centre
        squares[start : start + _BLOCK] = np.einsum("ij,ij->i", away, away)
    found = np.argpartition(squares, count - 1)[:count]
    found = found[np.lexsort((found, squares[found]))]
    return Neighbours(found, np.sqrt(squares[found].astype(float)))


def kernel(distance: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Epanechnikov weights that fall to zero at the farthest neighbour, and sum to one."""
    farthest = distance.max()
    weights = 1.0 - np.square(distance / farthest) if farthest > 0 else np.ones_like(distance)
    # All equally far, as where data can take few values only.
    weights = weights if weights.sum() > 0 else np.ones_like(distance)
    return weights / weights.sum()


def effective(weights: Float[np.ndarray, " k"]) -> float:
    """Number of equally weighted draws that tell as much."""
    return float(np.square(weights.sum()) / np.square(weights).sum())


def tempered(
    weights: Float[np.ndarray, " k"], log_ratios: Float[np.ndarray, " k"], least: float
) -> tuple[Float[np.ndarray, " k"], float]:
    """Weights of another prior, its ratio to the first raised to a power where few would be left.

    Parameters
    ----------
    weights : array of shape (k,)
        Weights under the first prior.
    log_ratios : array of shape (k,)
        Logs of the ratios of the prior densities, up to a constant.
    least : float
        Effective draws that are to be left; half of those under the first prior if that is less.

    Returns
    -------
    weights : array of shape (k,)
        They sum to one.
    power : float
        1 where enough are left under the other prior itself.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(weights)

    def at(power: float) -> np.ndarray:
        both = logs + power * log_ratios
        return np.exp(both - np.asarray(logsumexp(both)))

    wanted = min(least, 0.5 * effective(weights))
    if effective(at(1.0)) >= wanted:
        return at(1.0), 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(at(middle)) >= wanted else (low, middle)
    return at(low), low


def adjusted(
    x: Float[np.ndarray, "k d"], away: Float[np.ndarray, "k s"], weights: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "k d"]:
    """Draws as they would be if their summaries were those of the data.

    Parameters
    ----------
    x : array of shape (k, d)
        Parameters of the neighbours.
    away : array of shape (k, s)
        Their summaries minus those of the data.
    weights : array of shape (k,)
        Their weights.

    Returns
    -------
    array of shape (k, d)
        Residuals of a weighted linear regression of x on the summaries, added to its value at the
        data; and stretched as a second regression, of the logs of their squares, tells that they
        spread there. Slopes are those of ridge regressions, whose penalty is as large as their
        sampling error where summaries explain half of the variance: s / n, for n effective draws
        and summaries of variance one.

    References
    ----------
    Blum and François (2010), Non-linear regression models for approximate Bayesian computation,
    section 2, for the spread of the residuals.
    """
    weights = weights / weights.sum()
    centred = away - weights @ away
    scale = np.sqrt(weights @ np.square(centred))
    varies = scale > 1e-6 * np.maximum(np.abs(weights @ away), 1e-30)
    if not varies.any():
        return x
    z = centred[:, varies] / scale[varies]
    # From the data to each neighbour, in the same units.
    step = away[:, varies] / scale[varies]
    penalty = z.shape[1] / effective(weights)
    inner = (z * weights[:, None]).T @ z + penalty * np.eye(z.shape[1])

    def slopes(y: np.ndarray) -> np.ndarray:
        return np.linalg.solve(inner, (z * weights[:, None]).T @ (y - weights @ y))

    slope = slopes(x)
    residual = x - weights @ x - z @ slope
    typical = weights @ np.square(residual)
    logs = np.log(np.square(residual) + _LEAST_SQUARE * typical + np.finfo(float).tiny)
    stretch = np.clip(-0.5 * step @ slopes(logs), -_MOST_STRETCH, _MOST_STRETCH)
    return (x - step @ slope - residual) + residual * np.exp(stretch)


def local_mixture(
    x: Float[np.ndarray, "k d"],
    away: Float[np.ndarray, "k s"],
    weights: Float[np.ndarray, " k"],
    components: int,
    generator: np.random.Generator,
) -> Mixture:
    """The mixture of adjusted neighbours, as wide as new draws would spread about it.

    Residuals are smaller than errors, as slopes were fitted to them, and the fitted value at the
    data has an error of its own. A proposal is rather to be too wide than too narrow.

    Parameters
    ----------
    x, away, weights : array
        See :func:`adjusted`.
    components : int
        Components of the mixture.
    generator : numpy.random.Generator
        What the fit starts from.
    """
    kept = weights > 0
    x, away, weights = x[kept], away[kept], weights[kept]
    found = fit_mixture(
        adjusted(x, away, weights), components, generator, log_weights=np.log(weights)
    )
    n, s = effective(weights), away.shape[1]
    factor = min((n + 1.0) / max(n - s - 1.0, 1.0), _WIDEST)
    return found._replace(log_scales=np.asarray(found.log_scales) + 0.5 * np.log(factor))
