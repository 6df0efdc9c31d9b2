"""The filter of complete data, and linear systems between the entries that are missing.

With C = v I + G_1 x ... x G_I the covariance of a complete snapshot, F = (C - v I) C^-1 predicts
its signal, and Q selects what is missing. I - Q F Q^T is v times the part of C^-1 between missing
entries. One product with it costs two mode products an axis, between the entries and the directions
that carry signal: the others are left out exactly.

References
----------
Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems. Ubaru, Chen
and Saad (2017), Fast estimation of tr f(A) via stochastic Lanczos quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayes.inference.kronecker.tensors import along, outer

__all__ = [
    "Solution",
    "WienerFilter",
    "conjugate_gradients",
    "log_determinants",
    "norms_of",
    "wiener_filter",
]

_NEGLIGIBLE = 1e-15
"""Part of the noise variance below which the signal of a direction is left out."""


class WienerFilter(NamedTuple):
    """The filter F in the directions that carry signal.

    Parameters
    ----------
    basis : tuple of array of shape (m_i, r_i)
        Eigenvectors of the G_i.
    odds : array of shape (r_1, ..., r_I)
        Variance of the signal along each direction, over that of the noise.
    """

    basis: tuple[np.ndarray, ...]
    odds: np.ndarray

    def turned(self, tensor: np.ndarray) -> np.ndarray:
        """Coordinates in the basis of a tensor (L, m_1, ..., m_I)."""
        return along(tensor, [vectors.conj().T for vectors in self.basis])

    def back(self, turned: np.ndarray) -> np.ndarray:
        """The tensor that has these coordinates."""
        return along(turned, self.basis)

    def apply(self, tensor: np.ndarray) -> np.ndarray:
        """F times a tensor (L, m_1, ..., m_I)."""
        return self.back(self.turned(tensor) * self.shrinkage)

    def power(self, tensor: np.ndarray, exponent: float) -> np.ndarray:
        """(C / v) to a power, times a tensor (L, m_1, ..., m_I)."""
        return tensor + self.back(self.turned(tensor) * ((1.0 + self.odds) ** exponent - 1.0))

    @property
    def shrinkage(self) -> np.ndarray:
        """Eigenvalues of F, of shape (r_1, ..., r_I)."""
        return self.odds / (1.0 + self.odds)


def wiener_filter(
    factors: Sequence[np.ndarray], relevances: Sequence[np.ndarray], variance: float
) -> WienerFilter:
    """The filter at given variances.

    Parameters
    ----------
    factors : sequence of array of shape (m_i, n_i)
        Factors of the dictionary.
    relevances : sequence of array of shape (n_i,)
        Factors of the prior variances.
    variance : float
        Of the noise.

    Returns
    -------
    WienerFilter
    """
    pairs = [
        np.linalg.eigh((factor * relevance) @ factor.conj().T)
        for factor, relevance in zip(factors, relevances, strict=True)
    ]
    largest = float(np.prod([max(values[-1], 0.0) for values, _ in pairs]))
    kept, basis = [], []
    for values, vectors in pairs:
        # What a direction carries at most, with the largest of the other axes.
        audible = values * largest > _NEGLIGIBLE * variance * values[-1]
        audible[-1] = True
        kept.append(np.maximum(values[audible], 0.0))
        basis.append(vectors[:, audible])
    return WienerFilter(tuple(basis), outer(kept) / variance)


class Solution(NamedTuple):
    """What conjugate gradients found.

    Parameters
    ----------
    values : array of shape (n, m_1, ..., m_I)
        Zero where nothing is missing.
    iterations : int array of shape (n,)
        Of each right-hand side.
    residuals : array of shape (n,)
        Bounds on the relative residuals that the tolerance refers to.
    converged : bool
        Whether all are within the tolerance, or as close as rounding lets them.
    """

    values: np.ndarray
    iterations: np.ndarray
    residuals: np.ndarray
    converged: bool


def conjugate_gradients(
    wiener: WienerFilter,
    missing: np.ndarray,
    right: np.ndarray,
    norms: np.ndarray,
    *,
    start: np.ndarray | None = None,
    tolerance: float = 1e-8,
    limit: int = 2000,
) -> Solution:
    """Solve (I - Q F Q^T) z = b for many b at once; each stops by itself.

    Parameters
    ----------
    wiener : WienerFilter
        F.
    missing : bool array of shape (n, m_1, ..., m_I)
        What Q selects, for each right-hand side.
    right : array of shape (n, m_1, ..., m_I)
        The b; zero where nothing is missing.
    norms : array of shape (n,)
        Norms of the observations.
    start : array of shape (n, m_1, ..., m_I), optional
        Where to begin; zero where nothing is missing.
    tolerance : float
        For |y - A w| / |y|, with w = A^-1 y what follows of z for the observed y of covariance A.
    limit : int
        Iterations at most.

    Returns
    -------
    Solution
    """
    # A residual r of this system leaves y - A w = P (G / v) r for the observed entries, which is no
    # longer than odds * U^H r. Rounding leaves about the largest of the odds times the precision.
    tolerance = max(tolerance, 8 * np.finfo(float).eps * float(wiener.odds.max()))
    z = np.zeros_like(right) if start is None else start
    r = right if start is None else right - z + missing * wiener.apply(z)
    values, iterations = z.copy(), np.full(len(right), limit)
    live, mask, before = np.arange(len(right)), missing, np.full(len(right), np.inf)
    p, p_turned = np.zeros_like(right), np.zeros((len(right), *wiener.odds.shape), right.dtype)
    for count in range(limit):
        turned = wiener.turned(r)
        going = norms_of(turned * wiener.odds) > tolerance * norms[live]
        if not going.all():
            values[live], iterations[live[~going]] = z, count
            live, mask, before, turned = live[going], mask[going], before[going], turned[going]
            z, r, p, p_turned = z[going], r[going], p[going], p_turned[going]
        if not live.size:
            break
        # As p is r and a part of the p before, so are its coordinates: they cost no product.
        square = _inner(r, r)
        ratio = _columns(square / before, r)
        p, p_turned, before = r + ratio * p, turned + ratio * p_turned, square
        product = p - mask * wiener.back(p_turned * wiener.shrinkage)
        step = _columns(square / _inner(p, product), r)
        z, r = z + step * p, r - step * product
    values[live] = z
    left = right - values + missing * wiener.apply(values)
    bounds = norms_of(wiener.turned(left) * wiener.odds)
    residuals = np.divide(bounds, norms, out=np.zeros_like(bounds), where=norms > 0)
    return Solution(values, iterations, residuals, bool((bounds <= 10 * tolerance * norms).all()))


def log_determinants(
    wiener: WienerFilter, missing: np.ndarray, signs: np.ndarray, steps: int = 100
) -> np.ndarray:
    """Estimates of log det(I - Q F Q^T), one a probe, by Lanczos quadrature.

    Parameters
    ----------
    wiener : WienerFilter
        F.
    missing : bool array of shape (n, m_1, ..., m_I)
        What Q selects, for each probe.
    signs : array of shape (n, m_1, ..., m_I)
        Independent numbers of modulus one and mean zero.
    steps : int
        Points of the quadrature.

    Returns
    -------
    array of shape (n,)
    """
    sizes = norms_of(signs * missing)
    q = signs * missing / _columns(np.maximum(sizes, 1.0), signs)
    old, beta = np.zeros_like(q), np.zeros(len(q))
    diagonal, beside = [], []
    for _ in range(min(steps, int(np.max(sizes) ** 2 + 0.5))):
        w = q - missing * wiener.apply(q) - _columns(beta, q) * old
        diagonal.append(_inner(q, w))
        w = w - _columns(diagonal[-1], q) * q
        # A probe that meets an invariant subspace is at its end, and stays at zero.
        beta = norms_of(w)
        beta[beta < 1e-10] = 0.0
        beside.append(beta)
        old, q = q, w * _columns((beta > 0) / np.where(beta > 0, beta, 1.0), w)
        if not beta.any():
            break
    if not diagonal:
        return np.zeros(len(signs))
    size = len(diagonal)
    matrix = np.zeros((len(signs), size, size))
    matrix[:, range(size), range(size)] = np.stack(diagonal, axis=1)
    matrix[:, range(1, size), range(size - 1)] = np.stack(beside, axis=1)[:, :-1]
    nodes, vectors = np.linalg.eigh(matrix)
    # The spectrum is known to lie between these; past the end of a run its zeros have no weight.
    nodes = np.clip(nodes, 1.0 / (1.0 + wiener.odds.max()), 1.0)
    return sizes**2 * np.sum(vectors[:, 0] ** 2 * np.log(nodes), axis=-1)


def norms_of(tensor: np.ndarray) -> np.ndarray:
    """Norms of the snapshots of a tensor, of shape (L,)."""
    return np.sqrt(_inner(tensor, tensor))


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Real parts of the inner products of snapshots."""
    flat = a.reshape(len(a), -1).conj(), b.reshape(len(b), -1)
    return np.einsum("ij,ij->i", *flat).real


def _columns(numbers: np.ndarray, like: np.ndarray) -> np.ndarray:
    """One number a snapshot, to multiply a tensor with."""
    return numbers.reshape(-1, *[1] * (like.ndim - 1))
