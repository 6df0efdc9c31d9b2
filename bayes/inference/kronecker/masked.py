"""The evidence of Kronecker-structured variances where observations are missing.

Its derivatives, its value and its maximum, from observations whose missing entries are filled in:
see :mod:`bayes.inference.kronecker.imputation`.

References
----------
Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
He and Joseph (2024), arXiv 2307.14719, for the model. Hutchinson (1990), A stochastic estimator of
the trace of the influence matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayes.inference.kronecker.evidence import (
    Observations,
    decompose,
    noise_statistics,
    observe,
    precisions,
    slice_statistics,
    turned,
)
from bayes.inference.kronecker.imputation import (
    Imputation,
    active_part,
    completed,
    filled,
    impute,
)
from bayes.inference.kronecker.masks import MaskedObservations, repeated
from bayes.inference.kronecker.wiener import log_determinants, wiener_filter

__all__ = [
    "MaskedFit",
    "fit_masked",
    "masked_log_evidence",
    "masked_statistics",
]


def masked_statistics(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    imputation: Imputation,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[float, float]]:
    """What the observations say of the slices of coefficients along each axis, and of the noise.

    With A the covariance of a snapshot's observed entries, q = H^H P^T A^-1 y and
    z = diag(H^H P^T A^-1 P H), they are as :func:`slice_statistics` and :func:`noise_statistics`
    give them. Each ``pull`` is exact. Each ``push`` is estimated: a probe's y_s ~ N(0, A) has
    q_s = H^H P^T A^-1 y_s of covariance H^H P^T A^-1 A A^-1 P H, so that E|q_s|^2 = z. What its
    complete observations would give is q_s + d_s with an independent d_s, of the departures u_s,
    and E|q_s + d_s|^2 = z + E|d_s|^2 is known. So the probes only say which share of the complete
    push is left: it is never above one, and one where nothing is missing.

    Parameters
    ----------
    observations : MaskedObservations
        What was observed.
    relevances : sequence of array of shape (n_i,)
        Factors of the prior variances; zero where pruned.
    variance : float
        Of the noise.
    imputation : Imputation
        At these variances.

    Returns
    -------
    slices : list of (pull, push), each of shape (n_i,)
        One pair an axis; zeros where pruned.
    noise : tuple of float
        Pull and push.
    """
    factors, active, places = active_part(observations.factors, relevances)
    wiener = wiener_filter(factors, active, variance)
    whole = np.sqrt(variance) * wiener.power(observations.probes, 0.5) - imputation.spread
    seen, known, unknown = (
        decompose(Observations(tuple(factors), y, 0, 0.0), active)
        for y in (imputation.y, whole, imputation.spread)
    )
    precision = precisions(seen, variance)
    slices = []
    for axis, (relevance, place) in enumerate(zip(relevances, places, strict=True)):
        pull, push = slice_statistics(seen, axis, precision)
        left, lost = (slice_statistics(part, axis, precision)[0] for part in (known, unknown))
        pair = np.zeros((2, len(relevance)))
        pair[:, place] = pull, push * _share(left, lost)
        slices.append((pair[0], pair[1]))
    pull, push = noise_statistics(seen, variance, precision)
    left, lost = (noise_statistics(part, variance, precision)[0] for part in (known, unknown))
    return slices, (pull, push * float(_share(np.asarray(left), np.asarray(lost))))


def _share(left: np.ndarray, lost: np.ndarray) -> np.ndarray:
    total = left + lost
    return np.divide(left, total, out=np.ones_like(total), where=total > 0)


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


class MaskedFit(NamedTuple):
    """Variances that maximise the evidence.

    Parameters
    ----------
    relevances : list of array of shape (n_i,)
        Factors of the prior variances; zero where pruned.
    variance : float
        Of the noise.
    imputation : Imputation
        At these variances.
    changes : array of shape (rounds,)
        In each round, by how much the relevances changed at most, over the axis's largest.
    """

    relevances: list[np.ndarray]
    variance: float
    imputation: Imputation
    changes: np.ndarray


def fit_masked(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    *,
    rounds: int = 20,
    sweeps: int = 5,
    learn_noise: bool = True,
    tolerance: float = 1e-5,
    negligible: float = 1e-10,
) -> MaskedFit:
    """Maximise the evidence: fill in, update all variances some times, fill in anew.

    Parameters
    ----------
    observations : MaskedObservations
        What was observed.
    relevances : sequence of array of shape (n_i,)
        Where to begin.
    variance : float
        Of the noise; where to begin, if it is learned.
    rounds : int
        How often to fill in anew.
    sweeps : int
        Updates of every variance after each of them.
    learn_noise : bool
        Whether the variance of the noise is learned.
    tolerance : float
        Relative residual of the solves.
    negligible : float
        Share of an axis's largest variance below which a variance is pruned.

    Returns
    -------
    MaskedFit
    """
    relevances, changes = list(relevances), []
    imputation = impute(observations, relevances, variance, tolerance=tolerance)
    for _ in range(rounds):
        factors, active, places = active_part(observations.factors, relevances)
        y, _ = completed(imputation)
        spectrum = decompose(observe(factors, y), active)
        for _ in range(sweeps):
            for axis in range(len(factors)):
                precision = precisions(spectrum, variance)
                pull, push = slice_statistics(spectrum, axis, precision)
                relevance = spectrum.relevances[axis] * _step(pull, push)
                spectrum = turned(spectrum, axis, relevance)
            if learn_noise:
                precision = precisions(spectrum, variance)
                pull, push = noise_statistics(spectrum, variance, precision)
                variance *= float(np.sqrt(pull / push))
        change = 0.0
        for axis, place in enumerate(places):
            new = np.zeros_like(relevances[axis])
            new[place] = spectrum.relevances[axis]
            new[new < negligible * new.max()] = 0.0
            shapes = [one / max(one.max(), 1e-300) for one in (new, relevances[axis])]
            change = max(change, float(np.max(np.abs(shapes[0] - shapes[1]))))
            relevances[axis] = new
        changes.append(change)
        imputation = impute(
            observations, relevances, variance, start=imputation, tolerance=tolerance
        )
    return MaskedFit(relevances, variance, imputation, np.array(changes))


def _step(pull: np.ndarray, push: np.ndarray) -> np.ndarray:
    """Factor on variances that minimises the bound of majorise-minimise."""
    return np.sqrt(np.divide(pull, push, out=np.zeros_like(pull), where=push > 0))
