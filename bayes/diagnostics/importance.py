"""Importance ratios of draws of an approximation, and how heavy their tail is."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

__all__ = ["Ratios", "importance_ratios"]


@dataclasses.dataclass(frozen=True)
class Ratios:
    """Importance ratios of an approximation.

    Parameters
    ----------
    log_ratios : array of shape (draw,)
        log p − log q, the largest of them 0.
    khat : float
        Pareto k-hat of the ratios; -inf where they are all the same.
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
    # The function is made for leave-one-out and takes minus the log ratios.
    weights, khat = array_stats.psislw(-ratios)
    ess = float(np.exp(-np.logaddexp.reduce(2 * weights)))
    return Ratios(ratios, float(khat), ess, weights)
