"""Posterior means, variances and draws of coefficients where observations are missing.

They follow from observations whose missing entries are filled in as from complete ones: see
:mod:`bayes.inference.kronecker.imputation`.

References
----------
Journel and Huijbregts (1978), Mining geostatistics, section VII.A, for Matheron's rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes.inference.kronecker.evidence import (
    Observations,
    Spectrum,
    decompose,
    functional,
    posterior_mean,
    posterior_variance,
)
from bayes.inference.kronecker.imputation import Imputation, active_part, filled
from bayes.inference.kronecker.masks import MaskedObservations, normals, repeated
from bayes.inference.kronecker.tensors import along
from bayes.inference.kronecker.wiener import wiener_filter

__all__ = ["masked_draws", "masked_functional", "masked_mean", "masked_variance"]


def masked_mean(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    *,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """Posterior means of the coefficients.

    Parameters
    ----------
    observations : MaskedObservations
        What was observed.
    relevances : sequence of array of shape (n_i,)
        Factors of the prior variances; zero where pruned.
    variance : float
        Of the noise.
    tolerance : float
        Relative residual of the solves.

    Returns
    -------
    array of shape (L, n_1, ..., n_I)
    """
    spectrum, places = _filled_spectrum(observations, relevances, variance, tolerance)
    return _spread_out(posterior_mean(spectrum, variance), relevances, places)


def masked_functional(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    maps: Sequence[np.ndarray],
    *,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """Posterior means of (C_1 x ... x C_I) x.

    Parameters
    ----------
    observations, relevances, variance, tolerance
        As for :func:`masked_mean`.
    maps : sequence of array of shape (k_i, n_i)
        The C_i.

    Returns
    -------
    array of shape (L, k_1, ..., k_I)
    """
    spectrum, places = _filled_spectrum(observations, relevances, variance, tolerance)
    columns = [c[:, place] for c, place in zip(maps, places, strict=True)]
    return functional(spectrum, variance, columns)[0]


def masked_variance(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    imputation: Imputation,
    maps: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Posterior variances of the coefficients, or of (C_1 x ... x C_I) x.

    With complete observations they would be known; what not knowing the missing ones adds is the
    variance of the posterior mean over these. That alone is estimated from its S draws, and has a
    relative standard error of sqrt(2 / S), or sqrt(1 / S) where complex.

    Parameters
    ----------
    observations, relevances, variance
        As for :func:`masked_mean`.
    imputation : Imputation
        At these variances.
    maps : sequence of array of shape (k_i, n_i), optional
        The C_i.

    Returns
    -------
    array of shape (len(mask), n_1, ..., n_I) or (len(mask), k_1, ..., k_I)
        One for each mask.
    """
    factors, active, places = active_part(observations.factors, relevances)
    masks, spread = len(observations.mask), imputation.spread
    spectrum = decompose(Observations(tuple(factors), spread, 0, 0.0), active)
    turned, columns = spectrum.y, None
    if maps is not None:
        columns = [c[:, place] for c, place in zip(maps, places, strict=True)]
    added, known = 0.0, np.zeros(0)
    for first in range(0, len(spread), masks):  # a few of them at once: they may be large
        part = spectrum._replace(y=turned[first : first + masks])
        if columns is None:
            mean = posterior_mean(part, variance)
        else:
            mean, known = functional(part, variance, columns)
        added = added + np.abs(mean) ** 2
    added = added * (masks / len(spread))
    if columns is not None:
        return known + added
    return _spread_out(posterior_variance(spectrum, variance) + added, relevances, places)


def masked_draws(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    generator: np.random.Generator,
    count: int,
    *,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """Posterior draws of the coefficients, by Matheron's rule.

    A draw of coefficients and noise from the prior is corrected by the posterior mean that the
    difference between the observations and what it would have given has. All draws are solved for
    at once: memory holds some tensors of ``count * L`` snapshots.

    Parameters
    ----------
    observations, relevances, variance, tolerance
        As for :func:`masked_mean`.
    generator : numpy.random.Generator
        Of the draws.
    count : int
        Draws.

    Returns
    -------
    array of shape (count, L, n_1, ..., n_I)
    """
    _, y, mask, _ = observations
    factors, active, places = active_part(observations.factors, relevances)
    rows = count * len(y)
    sd = [np.sqrt(relevance) for relevance in active]
    x = normals(generator, (rows, *[len(one) for one in sd]), y.dtype)
    signal = along(x, [factor * one for factor, one in zip(factors, sd, strict=True)])
    noise = np.sqrt(variance) * normals(generator, signal.shape, y.dtype)
    away = repeated(mask, rows) * (np.tile(y, (count, *[1] * (y.ndim - 1))) - signal - noise)
    wiener = wiener_filter(factors, active, variance)
    away = filled(wiener, away, mask, tolerance=tolerance)
    spectrum = decompose(Observations(tuple(factors), away, 0, 0.0), active)
    x = along(x, [np.diag(one) for one in sd]) + posterior_mean(spectrum, variance)
    return _spread_out(x, relevances, places).reshape(
        count, len(y), *[len(relevance) for relevance in relevances]
    )


def _filled_spectrum(
    observations: MaskedObservations,
    relevances: Sequence[np.ndarray],
    variance: float,
    tolerance: float,
) -> tuple[Spectrum, tuple[np.ndarray, ...]]:
    """Of the observations filled in, without what is pruned; and the places of what is not."""
    factors, active, places = active_part(observations.factors, relevances)
    wiener = wiener_filter(factors, active, variance)
    y = filled(wiener, observations.y, observations.mask, tolerance=tolerance)
    return decompose(Observations(tuple(factors), y, 0, 0.0), active), places


def _spread_out(
    x: np.ndarray, relevances: Sequence[np.ndarray], places: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Coefficients with zeros where pruned."""
    found = np.zeros((len(x), *[len(relevance) for relevance in relevances]), x.dtype)
    found[np.ix_(np.arange(len(x)), *places)] = x
    return found
