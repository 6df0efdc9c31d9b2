"""Metrics for Hamiltonian dynamics, estimated from draws and gradients.

The metric minimises the Fisher divergence between the posterior and a Gaussian (Seyboldt, Carlson
and Carpenter, arXiv 2603.18845): diagonal, sqrt(var(x) / var(g)); dense, the geometric mean of the
covariance of the draws and the inverse covariance of the gradients; low-rank, that mean in the
span of the directions in which draws or gradients vary most. On a Gaussian posterior the dense one
is exact with any d + 1 draws.

A metric is held as a factor F of the covariance it stands for, F F' = Sigma. Small problems have
room for any F; large ones for F = S (I + V D V') with a diagonal S, some orthonormal columns V and
a diagonal D.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from bayes.normals import Normal

__all__ = [
    "KINDS",
    "Metric",
    "dense_metric",
    "diagonal_metric",
    "difficulty",
    "draws_for_structure",
    "estimate_metric",
    "identity_metric",
    "low_rank_metric",
    "metric_of_normal",
    "pull",
    "push",
]

KINDS = ("auto", "diagonal", "low_rank", "dense")

_FLOOR, _CEILING = 1e-20, 1e20
_JITTER = 1e-10
_LARGEST_DENSE = 256
"""Up to this dimension a factor is a full matrix: it stays in the cache of a core."""
_BRANCHLESS = 32
"""Up to this dimension the product with a matrix costs less than asking whether it is needed."""
_RANK, _DIRECTIONS = 24, 48
_ORDINARY = 1.5
"""Scales between its inverse and itself are left to the diagonal."""


class Metric(NamedTuple):
    """A factor F of the covariance that a metric stands for.

    Parameters
    ----------
    scale : array of shape (d,)
        Diagonal part S.
    matrix : array of shape (d, k)
        The matrix M of F = S M where ``stretch`` is empty; else the columns V.
    stretch : array of shape (k,) or (0,)
        The diagonal D.
    structured : bool
        Whether the matrix counts; F is S where it does not.
    """

    scale: Float[Array | np.ndarray, " d"]
    matrix: Float[Array | np.ndarray, "d k"]
    stretch: Float[Array | np.ndarray, " r"]
    structured: Bool[Array | np.ndarray, ""]

    @property
    def full(self) -> bool:
        """Whether there is room for any matrix."""
        return self.stretch.shape[0] == 0

    @property
    def kind(self) -> str:
        """Name of its form."""
        if not bool(self.structured):
            return "diagonal"
        return "dense" if self.full else "low_rank"


def push(metric: Metric, r: Float[Array, " d"]) -> Float[Array, " d"]:
    """F r, the displacement of a whitened momentum."""
    scale, matrix, stretch, structured = map(jnp.asarray, metric)

    def product() -> Array:
        if metric.full:
            return scale * (matrix @ r)
        return scale * (r + matrix @ (stretch * (r @ matrix)))

    if metric.full and r.shape[0] <= _BRANCHLESS:
        return product()
    return lax.cond(structured, product, lambda: scale * r)


def pull(metric: Metric, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
    """F' g, the gradient in whitened coordinates."""
    scale, matrix, stretch, structured = map(jnp.asarray, metric)
    slope = scale * gradient

    def product() -> Array:
        if metric.full:
            return slope @ matrix
        return slope + matrix @ (stretch * (slope @ matrix))

    if metric.full and slope.shape[0] <= _BRANCHLESS:
        return product()
    return lax.cond(structured, product, lambda: slope)


def identity_metric(dimension: int, *, kind: str = "auto") -> Metric:
    """The metric of independent unit scales, with the room that a dimension gets."""
    full = dimension <= _LARGEST_DENSE if kind in ("auto", "diagonal") else kind == "dense"
    return _plain(np.ones(dimension), full=full)


def _plain(scale: np.ndarray, *, full: bool) -> Metric:
    d = len(scale)
    no = np.asarray(False)
    if full:
        return Metric(scale, np.eye(d), np.zeros(0), no)
    rank = min(_RANK, d)
    return Metric(scale, np.zeros((d, rank)), np.zeros(rank), no)


def estimate_metric(
    kind: str, draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"], *, full: bool
) -> Metric:
    """The metric of a kind, or for ``"auto"`` the plainest that does nearly as well.

    A matrix costs two products a leapfrog step and is noisy with few draws: it is taken where it
    makes the other half of the draws at least a quarter easier to cross.
    """
    plain = diagonal_metric(draws, gradients, full=full)
    if kind == "diagonal" or draws.shape[1] == 1:
        return plain
    try:
        found = _structured_metric(kind, plain, draws, gradients)
    except np.linalg.LinAlgError:  # numbers of an early window that are beyond any arithmetic
        return plain
    return found if all(np.isfinite(v).all() for v in found) else plain


def _structured_metric(
    kind: str, plain: Metric, draws: np.ndarray, gradients: np.ndarray
) -> Metric:
    n, d = draws.shape
    full = plain.full
    if n < draws_for_structure(d, full=full):
        return plain
    structured = dense_metric if full else low_rank_metric
    if kind in ("dense", "low_rank"):
        return structured(draws, gradients)
    one, other = slice(0, None, 2), slice(1, None, 2)
    there = draws[other], gradients[other]
    diagonal = difficulty(diagonal_metric(draws[one], gradients[one], full=full), *there)
    if difficulty(structured(draws[one], gradients[one]), *there) < 0.75 * diagonal:
        return structured(draws, gradients)
    return plain


def draws_for_structure(dimension: int, *, full: bool) -> int:
    """Draws from which on a matrix can be told from noise."""
    return dimension + 20 if full else 40


def diagonal_metric(
    draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"], *, full: bool = True
) -> Metric:
    """The diagonal metric, with scales (var(x) / var(g))^(1/4)."""
    return _plain(_scales(draws, gradients), full=full)


def _scales(draws: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    spread = np.clip(draws.var(axis=0), _FLOOR, _CEILING)
    slope = np.clip(gradients.var(axis=0), _FLOOR, _CEILING)
    return (spread / slope) ** 0.25


def _geometric_root(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """A factor of A # B^-1 of A = cov(x) and B = cov(g).

    With B = L L' and L' A L = U diag(v) U', the mean is L^-T U diag(v)^(1/2) U' L^-1. A little of
    the identity is added to both, worth one draw, so that it exists for any number of draws.
    """
    n, d = x.shape
    ridge = np.eye(d) / n
    a = np.cov(x, rowvar=False).reshape(d, d) + ridge
    b = np.cov(g, rowvar=False).reshape(d, d) + ridge
    # As correlations, so that gradients of many magnitudes have a Cholesky factor.
    deviation = np.sqrt(np.diag(b))
    correlation = b / np.outer(deviation, deviation) + _JITTER * np.eye(d)
    lower = deviation[:, None] * np.linalg.cholesky(correlation)
    values, vectors = np.linalg.eigh(lower.T @ a @ lower)
    return np.linalg.solve(lower.T, vectors * np.clip(values, _FLOOR, None) ** 0.25)


def dense_metric(draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]) -> Metric:
    """The metric of any covariance, the geometric mean of cov(x) and cov(g)^-1."""
    scale = _scales(draws, gradients)
    matrix = _geometric_root(draws / scale, gradients * scale)
    return Metric(scale, matrix, np.zeros(0), np.asarray(True))


def low_rank_metric(draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]) -> Metric:
    """The diagonal metric, stretched or shrunk along a few directions."""
    scale = _scales(draws, gradients)
    plain = _plain(scale, full=False)
    x, g = draws / scale, gradients * scale
    basis = np.linalg.qr(np.concatenate([_directions(x), _directions(g)], axis=1))[0]
    root = _geometric_root(x @ basis, g @ basis)
    covariance, axes = np.linalg.eigh(root @ root.T)
    chosen = np.argsort(-np.abs(np.log(covariance)))[: len(plain.stretch)]
    chosen = chosen[np.abs(np.log(covariance[chosen])) > np.log(_ORDINARY)]
    if not len(chosen):
        return plain
    plain.matrix[:, : len(chosen)] = basis @ axes[:, chosen]
    plain.stretch[: len(chosen)] = np.sqrt(covariance[chosen]) - 1.0
    return plain._replace(structured=np.asarray(True))


def metric_of_normal(normal: Normal) -> Metric:
    """The metric of Hamiltonian dynamics that a normal is the target of.

    Where the metric has room for a few directions only, those that are stretched most are kept.
    """
    plain = identity_metric(len(normal.mean))
    if not normal.values.shape[0]:
        return plain._replace(scale=normal.scale)
    stretch = np.sqrt(normal.values) - 1.0
    if plain.full:
        matrix = np.eye(len(normal.mean)) + (normal.vectors * stretch) @ normal.vectors.T
        return Metric(normal.scale, matrix, np.zeros(0), np.asarray(True))
    room = len(plain.stretch)
    chosen = np.argsort(-np.abs(np.log(normal.values)))[:room]
    matrix, kept = np.zeros_like(plain.matrix), np.zeros(room)
    matrix[:, : len(chosen)] = normal.vectors[:, chosen]
    kept[: len(chosen)] = stretch[chosen]
    return Metric(normal.scale, matrix, kept, np.asarray(True))


def _directions(values: np.ndarray) -> np.ndarray:
    """Orthonormal directions in which the rows vary most, by way of their Gram matrix."""
    n, d = values.shape
    centred = values - values.mean(axis=0)
    count = max(1, min(_DIRECTIONS, n // 4, d // 2))
    spread, weights = np.linalg.eigh(centred @ centred.T)
    spread, weights = spread[-count:], weights[:, -count:]
    kept = spread > 1e-10 * spread[-1]
    return centred.T @ (weights[:, kept] / np.sqrt(spread[kept]))


def difficulty(
    metric: Metric, draws: Float[np.ndarray, "n d"], gradients: Float[np.ndarray, "n d"]
) -> float:
    """Leapfrog steps that a metric needs to cross the posterior, up to a constant.

    The longest scale over the shortest one: both are largest singular values, of the whitened draws
    and of the whitened gradients.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        longest, steepest = _whiten(metric, draws), _slopes(metric, gradients)
        found = float(np.sqrt(_largest(longest) * _largest(steepest)))
    return found if np.isfinite(found) else float("inf")


def _largest(values: np.ndarray) -> float:
    """Largest eigenvalue of the rows' covariance."""
    centred = values - values.mean(axis=0)
    n, d = centred.shape
    gram = centred @ centred.T if n < d else centred.T @ centred
    if not np.isfinite(gram).all():
        return float("inf")
    return max(float(np.linalg.eigvalsh(gram)[-1]) / n, _FLOOR)


def _whiten(metric: Metric, draws: np.ndarray) -> np.ndarray:
    """F^-1 x of every row."""
    x = draws / metric.scale
    if not metric.structured:
        return x
    if metric.full:
        return np.linalg.solve(metric.matrix, x.T).T
    shrink = 1.0 / (1.0 + metric.stretch) - 1.0
    return x + ((x @ metric.matrix) * shrink) @ metric.matrix.T


def _slopes(metric: Metric, gradients: np.ndarray) -> np.ndarray:
    """F' g of every row."""
    slope = gradients * metric.scale
    if not metric.structured:
        return slope
    if metric.full:
        return slope @ metric.matrix
    return slope + ((slope @ metric.matrix) * metric.stretch) @ metric.matrix.T
