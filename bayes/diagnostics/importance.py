"""Importance ratios of draws of an approximation, and how heavy their tail is."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

__all__ = ["Ratios", "importance_ratios", "nearly_equal"]

EQUAL_ESS, EQUAL_LARGEST = 0.95, 10.0
"""Share of draws that are effective, and largest weight in means, where ratios are nearly equal."""


_FEWEST = 25
"""Ratios that have a tail to fit a Pareto distribution to."""


@dataclasses.dataclass(frozen=True)
class Ratios:
    """Importance ratios of an approximation.

    Parameters
    ----------
    log_ratios : array of shape (draw,)
        log p − log q, the largest of them 0.
    khat : float
        Pareto k-hat of the ratios; -inf where the largest are all the same, inf where there are
        too few to tell.
    ess : float
        Effective number of draws under the smoothed weights.
    log_weights : array of shape (draw,)
        Logs of the smoothed weights, which sum to one.
    """

    log_ratios: Float[np.ndarray, " draw"]
    khat: float
    ess: float
    log_weights: Float[np.ndarray, " draw"]


def importance_ratios(log_p: np.ndarray, log_q: np.ndarray) -> Ratios:
    """Pareto-smoothed importance ratios of draws of an approximation.

    Parameters
    ----------
    log_p, log_q : array
        Log density of the posterior, up to a constant, and of the approximation, at the draws and
        on the same space; finite.

    Returns
    -------
    Ratios

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational inference.
    """
    from arviz_stats.base import array_stats

    ratios = np.ravel(log_p) - np.ravel(log_q)
    ratios = ratios - ratios.max()
    there = np.isfinite(ratios)
    if not there.all():
        found = importance_ratios(ratios[there], np.zeros(there.sum()))
        weights = np.full(ratios.size, -np.inf)
        weights[there] = found.log_weights
        return Ratios(ratios, found.khat, found.ess, weights)
    # Rounding makes equal ratios differ; a tail fitted to that means nothing.
    if np.ptp(ratios) < 1e-6:
        equal = np.full(ratios.size, -np.log(ratios.size))
        return Ratios(ratios, -np.inf, float(ratios.size), equal)
    raw = ratios - np.logaddexp.reduce(ratios)
    raw_ess = float(np.exp(-np.logaddexp.reduce(2 * raw)))
    if ratios.size < _FEWEST:
        return Ratios(ratios, np.inf, raw_ess, raw)
    tail = int(np.ceil(min(0.2 * ratios.size, 3 * np.sqrt(ratios.size))))
    if np.partition(ratios, -tail)[-tail] > -1e-12:
        return Ratios(ratios, -np.inf, raw_ess, raw)
    # The function is made for leave-one-out and takes minus the log ratios.
    weights, khat = array_stats.psislw(-ratios)
    ess = float(np.exp(-np.logaddexp.reduce(2 * weights)))
    return Ratios(ratios, float(khat), ess, weights)


def nearly_equal(ratios: Ratios) -> bool:
    """Whether ratios differ so little that the shape of their tail does not matter."""
    count = len(ratios.log_ratios)
    largest = float(np.exp(ratios.log_weights.max())) * count
    return bool(ratios.ess >= EQUAL_ESS * count and largest <= EQUAL_LARGEST and count >= 1000)
