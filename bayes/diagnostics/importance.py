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
    """

    log_ratios: Float[np.ndarray, " draw"]
    khat: float
    ess: float


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
    # Rounding makes equal ratios differ; a tail fitted to that means nothing.
    if np.ptp(ratios) < 1e-6:
        return Ratios(ratios, -np.inf, float(ratios.size))
    # The function is made for leave-one-out and takes minus the log ratios.
    weights, khat = array_stats.psislw(-ratios)
    return Ratios(ratios, float(khat), float(np.exp(-np.logaddexp.reduce(2 * weights))))
