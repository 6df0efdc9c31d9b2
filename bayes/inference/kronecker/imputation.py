"""Missing observations: fill them in, and go on as with complete ones.

Where entries are missing, the covariance A = P C P^T of the others has no Kronecker structure. Fill
the missing ones with their means z given the others: then C^-1 (y + z) is A^-1 y at the observed
entries and zero at the missing ones, so that posterior means follow as from complete observations.
The means solve (I - Q F Q^T) z = Q F y, by conjugate gradients: they are what the complete-data
filter F predicts from the filled observations.

What filling leaves open are departures u ~ N(0, B^-1) of the missing entries from z, where B is the
part of C^-1 between them. Filled observations beside draws of u are the complete observations of an
EM algorithm: any update that raises their evidence raises that of the incomplete ones. One filling
serves several updates.

References
----------
Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm. He
and Joseph (2024), arXiv 2307.14719, for the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayes.errors import ConvergenceWarning
from bayes.inference.kronecker.masks import MaskedObservations, repeated
from bayes.inference.kronecker.wiener import (
    WienerFilter,
    conjugate_gradients,
    norms_of,
    wiener_filter,
)

__all__ = ["Imputation", "active_part", "completed", "filled", "impute"]


class Imputation(NamedTuple):
    """Missing observations, filled in.

    Parameters
    ----------
    y : array of shape (L, m_1, ..., m_I)
        Observations, with posterior means of the missing ones.
    spread : array of shape (S * len(mask), m_1, ..., m_I)
        Draws of the departures of the missing ones from their means; zero where observed.
    iterations : int
        Of conjugate gradients, at most.
    converged : bool
        Whether they did.
    """

    y: np.ndarray
    spread: np.ndarray
    iterations: int
    converged: bool


def impute(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    *,
    start: Imputation | None = None,
    tolerance: float = 1e-8,
    limit: int = 2000,
) -> Imputation:
    """Fill in what is missing, and draw what that leaves open.

    Parameters
    ----------
    observations : MaskedObservations
        What was observed.
    relevances : sequence of array of shape (n_i,)
        Factors of the prior variances; zero where pruned.
    variance : float
        Of the noise.
    start : Imputation, optional
        One at other variances.
    tolerance : float
        For the relative residual |y - A w| / |y| of w = A^-1 y; of the probes' solves relative to
        their complete observations.
    limit : int
        Iterations of conjugate gradients at most.

    Returns
    -------
    Imputation

    Warns
    -----
    ConvergenceWarning
        Where ``limit`` iterations do not reach the tolerance.
    """
    _, y, mask, probes = observations
    factors, active, _ = active_part(observations.factors, relevances)
    wiener = wiener_filter(factors, active, variance)
    # C^-1/2 e has the covariance C^-1: its missing part b has B, and u = B^-1 b has B^-1. Of the
    # same probe, C^1/2 e are complete observations.
    b = np.sqrt(variance) * wiener.power(probes, -0.5)
    norms = np.sqrt(variance) * norms_of(wiener.power(probes, 0.5))
    known = np.concatenate([repeated(mask, len(y)), repeated(mask, len(probes))])
    values, iterations, converged = _solve(
        wiener,
        ~known,
        np.concatenate([wiener.apply(y), b]),
        np.concatenate([norms_of(y), norms]),
        None if start is None else np.concatenate([start.y - y, start.spread]),
        tolerance,
        limit,
    )
    return Imputation(y + values[: len(y)], values[len(y) :], iterations, converged)


def filled(
    wiener: WienerFilter,
    y: np.ndarray,
    mask: np.ndarray,
    *,
    tolerance: float = 1e-8,
    limit: int = 2000,
) -> np.ndarray:
    """Observations with posterior means of what is missing.

    Parameters
    ----------
    wiener : WienerFilter
        At the variances.
    y : array of shape (n, m_1, ..., m_I)
        Observations; zero where missing.
    mask : bool array of shape (k, m_1, ..., m_I)
        True where observed; n is a multiple of k, whose masks take turns.
    tolerance, limit
        As for :func:`impute`.

    Returns
    -------
    array of shape (n, m_1, ..., m_I)

    Warns
    -----
    ConvergenceWarning
        Where ``limit`` iterations do not reach the tolerance.
    """
    known = repeated(mask, len(y))
    values, _, _ = _solve(wiener, ~known, wiener.apply(y), norms_of(y), None, tolerance, limit)
    return y + values


def _solve(
    wiener: WienerFilter,
    missing: np.ndarray,
    right: np.ndarray,
    norms: np.ndarray,
    start: np.ndarray | None,
    tolerance: float,
    limit: int,
) -> tuple[np.ndarray, int, bool]:
    """Missing entries, iterations and whether they were enough; a warning where they were not."""
    found = conjugate_gradients(
        wiener, missing, right * missing, norms, start=start, tolerance=tolerance, limit=limit
    )
    if not found.converged:
        short = int(np.sum(found.residuals > tolerance))
        warnings.warn(
            f"missing observations: {short} of {len(norms)} solves have a relative residual above "
            f"{tolerance:.1e}, up to {found.residuals.max():.1e}, after {limit} iterations of "
            "conjugate gradients; allow more iterations, or start with a larger noise variance",
            ConvergenceWarning,
            stacklevel=3,
        )
    return found.values, int(found.iterations.max()), found.converged


def completed(imputation: Imputation) -> tuple[np.ndarray, float]:
    """Complete observations that updates take in place of the incomplete ones.

    Parameters
    ----------
    imputation : Imputation
        At the present variances.

    Returns
    -------
    y : array of shape (K, m_1, ..., m_I)
        Filled observations and draws of their departures, K = L + S * len(mask) rows in all, such
        that their log evidence, as of K snapshots, is K / L times the expected one of L snapshots.
    repeats : float
        K / L: how often log priors of the variances are to be counted beside it.
    """
    snapshots, draws = len(imputation.y), len(imputation.spread)
    repeats = (snapshots + draws) / snapshots
    weighted = np.sqrt(snapshots / draws) * imputation.spread
    return np.sqrt(repeats) * np.concatenate([imputation.y, weighted]), repeats


def active_part(
    factors: Sequence[np.ndarray], relevances: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], tuple[np.ndarray, ...]]:
    """What is not pruned: columns of the factors, their variances, and which they are.

    An axis of which everything is pruned keeps one column, of variance zero.
    """
    found = [np.flatnonzero(relevance) for relevance in relevances]
    found = tuple(active if active.size else np.zeros(1, int) for active in found)
    columns = [factor[:, active] for factor, active in zip(factors, found, strict=True)]
    kept = [relevance[active] for relevance, active in zip(relevances, found, strict=True)]
    return columns, kept, found
