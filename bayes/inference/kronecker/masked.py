"""The evidence of Kronecker-structured variances where observations are missing.

From observations whose missing entries are filled in: see
:mod:`bayes.inference.kronecker.imputation`.

References
----------
Ubaru, Chen and Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM
Journal on Matrix Analysis and Applications 38.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes.inference.kronecker.imputation import active_part, filled
from bayes.inference.kronecker.masks import MaskedObservations, repeated
from bayes.inference.kronecker.wiener import log_determinants, wiener_filter

__all__ = ["masked_log_evidence"]


def masked_log_evidence(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    *,
    tolerance: float = 1e-8,
    steps: int = 100,
) -> tuple[float, float]:
    """Log density of the observed entries given the variances, as far as probes tell it.

    The quadratic form is exact. With m missing entries, log det A = log det C + log det B, for
    which log det(v B) is estimated by stochastic Lanczos quadrature with the signs of the probes.

    Parameters
    ----------
    observations, relevances, variance, tolerance
        As for :func:`masked_mean`.
    steps : int
        Points of the quadrature.

    Returns
    -------
    estimate, standard_error : float
    """
    _, y, mask, probes = observations
    factors, active, _ = active_part(observations.factors, relevances)
    wiener = wiener_filter(factors, active, variance)
    whole = filled(wiener, y, mask, tolerance=tolerance)
    square = float(np.vdot(y, whole - wiener.apply(whole)).real) / variance
    logs = log_determinants(
        wiener, ~repeated(mask, len(probes)), probes / np.abs(probes), steps
    ).reshape(-1, len(mask))
    times = len(y) // len(mask)
    log_det = observations.size * np.log(variance) + len(y) * np.sum(np.log1p(wiener.odds))
    log_det += times * logs.mean(axis=0).sum()
    error = times * np.sqrt(np.sum(logs.var(axis=0, ddof=1)) / len(logs))
    if np.iscomplexobj(y):
        estimate = -log_det - square - observations.size * np.log(np.pi)
        return float(estimate), float(error)
    estimate = -0.5 * (log_det + square + observations.size * np.log(2 * np.pi))
    return float(estimate), float(0.5 * error)
