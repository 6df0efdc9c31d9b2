"""Metrics for Hamiltonian dynamics, estimated from draws and gradients.

The metric minimises the Fisher divergence between the posterior and a Gaussian (Seyboldt, Carlson
and Carpenter, arXiv 2603.18845): diagonal, sqrt(var(x) / var(g)); dense, the geometric mean of the
covariance of the draws and the inverse covariance of the gradients. On a Gaussian posterior the
dense one is exact with any d + 1 draws.

A metric is held as the factor F of the covariance it stands for, F F' = Sigma: a vector for a
diagonal one, else a matrix. Dynamics run on z with position = F z and unit mass.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["choose_factor", "dense_factor", "diagonal_factor", "to_position", "to_whitened"]

_FLOOR, _CEILING = 1e-20, 1e20


def diagonal_factor(
    draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " d"]:
    """Factor of the diagonal metric: (var(x) / var(g))^(1/4)."""
    spread = np.clip(draws.var(axis=0), _FLOOR, _CEILING)
    slope = np.clip(gradients.var(axis=0), _FLOOR, _CEILING)
    return (spread / slope) ** 0.25


def dense_factor(
    draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "d d"]:
    """Factor of the dense metric, the geometric mean A # B^-1 of A = cov(x) and B = cov(g).

    With B = L L', A # B^-1 = L^-T (L' A L)^(1/2) L^-1. A little of the diagonal metric is added to
    both, worth one draw, so that the estimate exists for any number of draws.
    """
    scale = diagonal_factor(draws, gradients)
    x, g = draws / scale, gradients * scale
    n, d = x.shape
    ridge = np.eye(d) / n
    a = np.cov(x, rowvar=False).reshape(d, d) + ridge
    b = np.cov(g, rowvar=False).reshape(d, d) + ridge
    lower = np.linalg.cholesky(b)
    values, vectors = np.linalg.eigh(lower.T @ a @ lower)
    root = vectors * np.clip(values, _FLOOR, None) ** 0.25
    return scale[:, None] * np.linalg.solve(lower.T, root)


def difficulty(
    factor: np.ndarray, draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]
) -> float:
    """Leapfrog steps that a metric needs to cross the posterior, up to a constant.

    The longest scale over the shortest one: both are largest eigenvalues, of the whitened draws
    and of the whitened gradients.
    """
    z = to_whitened(factor, draws)
    g = gradients * factor if factor.ndim == 1 else gradients @ factor
    longest = np.linalg.eigvalsh(np.cov(z, rowvar=False).reshape(z.shape[1], -1))[-1]
    steepest = np.linalg.eigvalsh(np.cov(g, rowvar=False).reshape(z.shape[1], -1))[-1]
    return float(np.sqrt(max(longest, _FLOOR) * max(steepest, _FLOOR)))


def choose_factor(
    draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]
) -> np.ndarray:
    """The dense factor where it pays on held-out draws, else the diagonal one.

    A dense metric costs a matrix-vector product a leapfrog step and is noisy with few draws; it is
    taken where it makes the other half of the draws at least a quarter easier to cross.
    """
    n, d = draws.shape
    if d == 1 or n < 2 * (d + 10):
        return diagonal_factor(draws, gradients)
    one, other = slice(0, None, 2), slice(1, None, 2)
    diagonal = difficulty(
        diagonal_factor(draws[one], gradients[one]), draws[other], gradients[other]
    )
    dense = difficulty(dense_factor(draws[one], gradients[one]), draws[other], gradients[other])
    if dense < 0.75 * diagonal:
        return dense_factor(draws, gradients)
    return diagonal_factor(draws, gradients)


def to_position(factor: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Whitened coordinates (..., d) to positions."""
    return z * factor if factor.ndim == 1 else z @ factor.T


def to_whitened(factor: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Positions (n, d) to whitened coordinates."""
    return positions / factor if factor.ndim == 1 else np.linalg.solve(factor, positions.T).T
