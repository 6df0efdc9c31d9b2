"""The evidence of Kronecker-structured variances, and what follows from it, without large matrices.

With y = (H_1 x ... x H_I) x + n, x ~ N(0, diag(g_1 x ... x g_I)) and noise variance v, the
covariance of y is v I + G_1 x ... x G_I with G_i = H_i diag(g_i) H_i^H. The eigenvectors of the
small G_i diagonalise it. All sums over coefficients that the updates need can be made before the
coefficients are, since B_i^H diag(g_i) B_i = diag(s_i) for B_i = H_i^H U_i: no tensor is larger
than y with one of its axes replaced by one of coefficients.

References
----------
He and Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery, IEEE
Transactions on Signal Processing (arXiv 2307.14719), for the model and its eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayes.inference.kronecker.tensors import along, contracted, mode_product, outer

__all__ = [
    "Observations",
    "Spectrum",
    "decompose",
    "functional",
    "log_evidence",
    "noise_statistics",
    "observe",
    "posterior_mean",
    "posterior_variance",
    "precisions",
    "slice_statistics",
    "turned",
]


class Observations(NamedTuple):
    """Factors and observations, without the part that no coefficient reaches.

    Parameters
    ----------
    factors : tuple of array of shape (r_i, n_i)
        Factors of the dictionary; r_i is at most n_i.
    y : array of shape (L, r_1, ..., r_I)
        Observations, of L snapshots.
    outside : int
        Dimensions of the observations that no coefficient reaches, over all snapshots.
    energy : float
        Sum of squares of the observations there.
    """

    factors: tuple[np.ndarray, ...]
    y: np.ndarray
    outside: int
    energy: float

    @property
    def is_complex(self) -> bool:
        """Whether the observations are complex numbers."""
        return np.iscomplexobj(self.y)

    @property
    def size(self) -> int:
        """Numbers that were observed; a complex one counts once."""
        return self.y.size + self.outside

    @property
    def power(self) -> float:
        """Mean square of the observations."""
        return float((np.sum(np.abs(self.y) ** 2) + self.energy) / self.size)

    @property
    def work(self) -> int:
        """Multiplications that statistics along all axes take, about."""
        shapes = [factor.shape for factor in self.factors]
        return sum(self.y.size * (m + n) + m * m * (m + 2 * n) for m, n in shapes)


def observe(factors: Sequence[np.ndarray], y: np.ndarray) -> Observations:
    """Reduce tall factors: what lies outside of their ranges is noise alone.

    Parameters
    ----------
    factors : sequence of array of shape (m_i, n_i)
        Factors of the dictionary.
    y : array of shape (L, m_1, ..., m_I)
        Observations of L snapshots.

    Returns
    -------
    Observations
    """
    found, reduced = [], y
    for axis, factor in enumerate(factors):
        if factor.shape[0] > factor.shape[1]:
            basis, factor = np.linalg.qr(factor)
            reduced = mode_product(reduced, basis.conj().T, axis + 1)
        found.append(factor)
    outside = y.size - reduced.size
    energy = float(np.sum(np.abs(y) ** 2) - np.sum(np.abs(reduced) ** 2)) if outside else 0.0
    return Observations(tuple(found), reduced, outside, max(energy, 0.0))


class Spectrum(NamedTuple):
    """Factors and observations in the eigenvectors of the factors of the covariance.

    Parameters
    ----------
    relevances : tuple of array of shape (n_i,)
        Factors g_i of the prior variances.
    factors : tuple of array of shape (r_i, n_i)
        U_i^H H_i.
    values : tuple of array of shape (r_i,)
        Eigenvalues s_i of H_i diag(g_i) H_i^H.
    y : array of shape (L, r_1, ..., r_I)
        Observations times U_i^H along each axis.
    outside : int
    energy : float
        As for ``Observations``.
    """

    relevances: tuple[np.ndarray, ...]
    factors: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]
    y: np.ndarray
    outside: int
    energy: float


def decompose(observations: Observations, relevances: Sequence[np.ndarray]) -> Spectrum:
    """The spectrum at given factors of the prior variances.

    Parameters
    ----------
    observations : Observations
        What was observed.
    relevances : sequence of array of shape (n_i,)
        Factors of the prior variances.

    Returns
    -------
    Spectrum
    """
    factors, y, outside, energy = observations
    values = tuple(np.empty(len(factor)) for factor in factors)
    found = Spectrum(tuple(relevances), factors, values, y, outside, energy)
    for axis, relevance in enumerate(relevances):
        found = turned(found, axis, relevance)
    return found


def turned(spectrum: Spectrum, axis: int, relevance: np.ndarray) -> Spectrum:
    """The spectrum with other prior variances along one axis.

    Parameters
    ----------
    spectrum : Spectrum
        One with any.
    axis : int
        Which factor.
    relevance : array of shape (n_axis,)
        Its variances.

    Returns
    -------
    Spectrum
    """
    factor = spectrum.factors[axis]
    values, vectors = np.linalg.eigh((factor * relevance) @ factor.conj().T)
    back = vectors.conj().T
    return spectrum._replace(
        relevances=_put(spectrum.relevances, axis, relevance),
        factors=_put(spectrum.factors, axis, back @ factor),
        values=_put(spectrum.values, axis, np.maximum(values, 0.0)),
        y=mode_product(spectrum.y, back, axis + 1),
    )


def _put(parts: tuple[np.ndarray, ...], place: int, part: np.ndarray) -> tuple[np.ndarray, ...]:
    return (*parts[:place], part, *parts[place + 1 :])


def precisions(spectrum: Spectrum, variance: float) -> np.ndarray:
    """Eigenvalues of the precision of a snapshot, of shape (r_1, ..., r_I)."""
    return 1.0 / (variance + outer(spectrum.values))


def log_evidence(spectrum: Spectrum, variance: float, precision: np.ndarray) -> float:
    """Log density of the observations given the variances.

    Parameters
    ----------
    spectrum : Spectrum
        At the prior variances.
    variance : float
        Of the noise; of complex noise that of both parts together.
    precision : array of shape (r_1, ..., r_I)
        As :func:`precisions` gives it.

    Returns
    -------
    float
    """
    y, snapshots = spectrum.y, len(spectrum.y)
    size = y.size + spectrum.outside
    logs = snapshots * float(np.sum(np.log(precision)))
    square = float(np.vdot(y, y * precision).real)
    if spectrum.outside:
        logs -= spectrum.outside * np.log(variance)
        square += spectrum.energy / variance
    if np.iscomplexobj(y):
        return logs - square - size * np.log(np.pi)
    return 0.5 * (logs - square - size * np.log(2 * np.pi))


def slice_statistics(
    spectrum: Spectrum, axis: int, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the observations say of each slice of coefficients along an axis.

    With S the covariance of y, q = H^H S^-1 y and z = diag(H^H S^-1 H), these are the sums of |q|^2
    and of z over a slice, weighted with the prior variances along the other axes. Minus twice the
    log evidence (minus once, where complex) has the derivative push - pull in the slice's variance.

    Parameters
    ----------
    spectrum : Spectrum
        At the prior variances.
    axis : int
        Which factor.
    precision : array of shape (r_1, ..., r_I)
        As :func:`precisions` gives it.

    Returns
    -------
    pull, push : array of shape (n_axis,)
        Sums over snapshots.
    """
    back = spectrum.factors[axis].conj().T
    q = mode_product(spectrum.y * precision, back, axis + 1)
    power = np.sum(np.real(q) ** 2 + np.imag(q) ** 2 if np.iscomplexobj(q) else q * q, axis=0)
    pull = contracted(power, spectrum.values, axis)
    shares = contracted(precision, spectrum.values, axis)
    push = len(spectrum.y) * (np.abs(back) ** 2 @ shares)
    return pull, push


def noise_statistics(
    spectrum: Spectrum, variance: float, precision: np.ndarray
) -> tuple[float, float]:
    """The same for the variance of the noise.

    Returns
    -------
    pull, push : float
        Squares of S^-1 y, and the trace of S^-1, over snapshots.
    """
    weighted = spectrum.y * precision
    pull = float(np.vdot(weighted, weighted).real)
    push = len(spectrum.y) * float(np.sum(precision))
    if spectrum.outside:
        pull += spectrum.energy / variance**2
        push += spectrum.outside / variance
    return pull, push


def posterior_mean(spectrum: Spectrum, variance: float) -> np.ndarray:
    """Posterior means of the coefficients, of shape (L, n_1, ..., n_I)."""
    weighted = spectrum.y * precisions(spectrum, variance)
    return along(weighted, _gains(spectrum))


def posterior_variance(spectrum: Spectrum, variance: float) -> np.ndarray:
    """Posterior variances of the coefficients, the same for each snapshot.

    Returns
    -------
    array of shape (n_1, ..., n_I)
    """
    return _variance(precisions(spectrum, variance), spectrum.relevances, _gains(spectrum))


def functional(
    spectrum: Spectrum, variance: float, maps: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and variances of (C_1 x ... x C_I) x.

    Parameters
    ----------
    spectrum : Spectrum
        At the prior variances.
    variance : float
        Of the noise.
    maps : sequence of array of shape (k_i, n_i)
        The C_i.

    Returns
    -------
    mean : array of shape (L, k_1, ..., k_I)
    variance : array of shape (k_1, ..., k_I)
    """
    gains = [c @ gain for c, gain in zip(maps, _gains(spectrum), strict=True)]
    precision = precisions(spectrum, variance)
    prior = [
        np.abs(c) ** 2 @ relevance for c, relevance in zip(maps, spectrum.relevances, strict=True)
    ]
    return along(spectrum.y * precision, gains), _variance(precision, prior, gains)


def _gains(spectrum: Spectrum) -> list[np.ndarray]:
    """diag(g_i) H_i^H U_i: they take S^-1 y in the eigenvectors to posterior means."""
    return [
        relevance[:, None] * factor.conj().T
        for relevance, factor in zip(spectrum.relevances, spectrum.factors, strict=True)
    ]


def _variance(
    precision: np.ndarray, prior: Sequence[np.ndarray], gains: Sequence[np.ndarray]
) -> np.ndarray:
    """Prior variance less what the observations explain; rounding never makes it negative."""
    explained = along(precision[None], [np.abs(gain) ** 2 for gain in gains])[0]
    return np.maximum(outer(prior) - explained, 0.0)
