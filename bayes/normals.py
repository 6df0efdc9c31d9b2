"""Normal distributions on the unconstrained space, all in one form.

Sigma = S (I + V (diag(lambda) - I) V') S with a diagonal S, orthonormal columns V of shape (d, k)
and positive lambda. Without columns it is a normal of independent elements; with k = d it is any
normal; what a quasi-Newton path knows of a covariance lies between.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = [
    "Normal",
    "covariance",
    "independent",
    "log_prob",
    "normal_of_covariance",
    "normal_of_precision",
    "push",
    "whiten",
]

_LOG_TAU = float(np.log(2.0 * np.pi))


class Normal(NamedTuple):
    """A normal distribution, or several of them with leading dimensions.

    Parameters
    ----------
    mean : array of shape (..., d)
        Mean.
    scale : array of shape (..., d)
        Diagonal of S.
    vectors : array of shape (..., d, k)
        Orthonormal columns V.
    values : array of shape (..., k)
        Variances along them once S is divided out.
    """

    mean: Float[np.ndarray, "*lead d"]
    scale: Float[np.ndarray, "*lead d"]
    vectors: Float[np.ndarray, "*lead d k"]
    values: Float[np.ndarray, "*lead k"]

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations of the elements."""
        stretched = (np.square(self.vectors) * (self.values - 1.0)[..., None, :]).sum(-1)
        return self.scale * np.sqrt(np.maximum(1.0 + stretched, 0.0))

    @property
    def log_scale(self) -> np.ndarray:
        """Half the log determinant of the covariance."""
        return np.asarray(np.log(self.scale).sum(-1) + 0.5 * np.log(self.values).sum(-1))


def independent(mean: np.ndarray, scale: np.ndarray) -> Normal:
    """A normal of independent elements."""
    return Normal(mean, scale, np.zeros((*mean.shape, 0)), np.zeros((*mean.shape[:-1], 0)))


def normal_of_covariance(mean: np.ndarray, sigma: np.ndarray) -> Normal:
    """The normal of a covariance matrix.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where the matrix is not positive definite.
    """
    variances = np.diagonal(sigma)
    if not np.all((variances > 0) & (variances < np.inf)):  # also where they are NaN
        raise np.linalg.LinAlgError("a covariance has a variance that is not positive")
    scale = np.sqrt(variances)
    values, vectors = np.linalg.eigh(sigma / np.outer(scale, scale))
    # An eigenvalue of rounding errors alone stands for none.
    if not values[0] > 1e-13 * values[-1]:
        raise np.linalg.LinAlgError("a covariance is not positive definite")
    return Normal(mean, scale, vectors, values)


def normal_of_precision(mean: np.ndarray, precision: np.ndarray) -> Normal:
    """The normal of a precision matrix; raises as :func:`normal_of_covariance` does."""
    diagonal = np.diagonal(precision)
    if not np.all((diagonal > 0) & (diagonal < np.inf)):
        raise np.linalg.LinAlgError("a precision has an element that is not positive")
    scale = 1.0 / np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(precision * np.outer(scale, scale))
    if not values[0] > 1e-13 * values[-1]:
        raise np.linalg.LinAlgError("a precision is not positive definite")
    return Normal(mean, scale, vectors, 1.0 / values)


def push(normal: Normal, z: Float[np.ndarray, "*lead n d"]) -> Float[np.ndarray, "*lead n d"]:
    """Displacements from the mean that standard normal draws stand for."""
    if normal.values.shape[-1]:
        stretch = (np.sqrt(normal.values) - 1.0)[..., None, :]
        z = z + np.matmul(
            np.matmul(z, normal.vectors) * stretch, np.swapaxes(normal.vectors, -1, -2)
        )
    return normal.scale[..., None, :] * z


def whiten(normal: Normal, x: Float[np.ndarray, "*lead n d"]) -> Float[np.ndarray, "*lead n d"]:
    """Standard normal draws that positions stand for."""
    z = (x - normal.mean[..., None, :]) / normal.scale[..., None, :]
    if normal.values.shape[-1]:
        shrink = (1.0 / np.sqrt(normal.values) - 1.0)[..., None, :]
        z = z + np.matmul(
            np.matmul(z, normal.vectors) * shrink, np.swapaxes(normal.vectors, -1, -2)
        )
    return z


def log_prob(normal: Normal, x: Float[np.ndarray, "*lead n d"]) -> Float[np.ndarray, "*lead n"]:
    """Log density at positions."""
    d = x.shape[-1]
    squares = np.square(whiten(normal, x)).sum(-1)
    return -0.5 * (squares + d * _LOG_TAU) - normal.log_scale[..., None]


def covariance(normal: Normal) -> Float[np.ndarray, "d d"]:
    """The covariance matrix of one normal."""
    stretched = (normal.vectors * (normal.values - 1.0)) @ normal.vectors.T
    return np.outer(normal.scale, normal.scale) * (np.eye(len(normal.mean)) + stretched)
