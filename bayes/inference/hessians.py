"""The Hessian of the log density at one position: its rows, its products and its spectrum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from bayes.inference.densities import evaluations_at_once, hessian_products
from bayes.normals import Normal
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = [
    "Curvature",
    "dense_curvature",
    "hessian_operator",
    "hessian_rows",
    "lanczos_curvature",
    "newton_steps",
]

_BATCHES = 16
"""Batches of Hessian products in a block of work."""
_DEFINITE = 1e-12
"""Of the greatest eigenvalue of a scaled Hessian: what rounding errors leave of a zero."""
_LEAST_CURVATURE = 1e-2
"""Of a scaled Hessian that is not definite: what stands for eigenvalues that are not positive."""
_PRODUCTS, _RESTARTS = 200, 30
_TRIALS = 30
_TOLERANCE: Any = 1e-4


class Curvature(NamedTuple):
    """Minus the Hessian, as far as its spectrum is known: S^-1 (I + V (diag(w) - I) V') S^-1.

    Parameters
    ----------
    scale : array of shape (d,)
        Diagonal of S, the scales that its diagonal tells.
    vectors : array of shape (d, k)
        Orthonormal columns V.
    values : array of shape (k,)
        Eigenvalues w that belong to them, ascending.
    """

    scale: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d k"]
    values: Float[np.ndarray, " k"]

    @property
    def definite(self) -> bool:
        """Whether it is positive definite, beyond rounding errors."""
        return not len(self.values) or bool(self.values[0] > _DEFINITE * max(self.values[-1], 1.0))

    def normal(self, mean: Float[np.ndarray, " d"], rank: int | None = None) -> Normal:
        """The normal of this precision; where it is not definite, of one that is near.

        Parameters
        ----------
        mean : array of shape (d,)
            Mean.
        rank : int, optional
            How many directions to keep: those whose variance is furthest from that of the scales.
        """
        values = self.values
        if not self.definite:
            values = np.maximum(np.abs(values), _LEAST_CURVATURE)
        kept = np.arange(len(values))
        if rank is not None and rank < len(values):
            kept = np.sort(np.argsort(-np.abs(np.log(values)), kind="stable")[:rank])
        return Normal(mean, self.scale, self.vectors[:, kept], 1.0 / values[kept])


def hessian_rows(
    problem: Problem, position: Float[np.ndarray, " d"], first: int, *, diagonal: bool = False
) -> Float[np.ndarray, "n c"]:
    """Some rows of the Hessian, or their elements on its diagonal.

    Parameters
    ----------
    problem : Problem
        Model and data.
    position : array of shape (d,)
        Where.
    first : int
        The first row; there are as many as a block of work may have.
    diagonal : bool
        Whether only the elements on the diagonal are kept.

    Returns
    -------
    array of shape (n, d), or (n, 1)
    """
    d = problem.size
    count = min(_BATCHES * evaluations_at_once(problem, 32), d - first)
    units = np.zeros((count, d))
    numbers = np.arange(count)
    units[numbers, first + numbers] = 1.0
    rows = hessian_products(problem, np.tile(position, (count, 1)), units)
    return rows[numbers, first + numbers][:, None] if diagonal else rows


def hessian_operator(problem: Problem, position: Float[np.ndarray, " d"]) -> LinearOperator:
    """Minus the Hessian as an operator, one product at a time.

    Parameters
    ----------
    problem : Problem
        Model and data.
    position : array of shape (d,)
        Where.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
    """
    program, d = problem.program, problem.size

    def product(x: jax.Array, v: jax.Array, arrays: object) -> jax.Array:
        return -jax.jvp(lambda y: jax.grad(program.log_density)(y, arrays), (x,), (v,))[1]

    vector = jax.ShapeDtypeStruct((d,), np.float64)
    run: Callable = program.compile_ahead(
        "hessian product", product, vector, vector, problem.array_shapes
    ).result()
    arrays = problem.arrays

    def matvec(v: np.ndarray) -> np.ndarray:
        with double_precision():
            return np.asarray(run(position, np.ravel(v), arrays))

    return _operator(d, matvec)


def dense_curvature(hessian: Float[np.ndarray, "d d"]) -> Curvature | None:
    """The whole spectrum of a Hessian of the log density; None where it is not finite."""
    precision = -0.5 * (hessian + hessian.T)
    scale = _scales(np.diagonal(precision))
    scaled = precision * scale * scale[:, None]
    if not np.isfinite(scaled).all():
        return None
    values, vectors = np.linalg.eigh(scaled)
    return Curvature(scale, vectors, values)


def lanczos_curvature(
    operator: LinearOperator, diagonal: Float[np.ndarray, " d"], rank: int
) -> Curvature | None:
    """Both ends of the spectrum of minus the Hessian, by Lanczos' method.

    Parameters
    ----------
    operator : LinearOperator
        Products of minus the Hessian.
    diagonal : array of shape (d,)
        Its diagonal.
    rank : int
        How many eigenvalues, half of them at either end.

    Returns
    -------
    Curvature
        None where a product is not finite, or nothing has converged.

    References
    ----------
    Lehoucq, Sorensen and Yang (1998), ARPACK users' guide.
    """
    d = len(diagonal)
    scale = _scales(diagonal)
    scaled = _operator(d, lambda v: scale * operator.matvec(scale * np.ravel(v)))
    # The start is fixed, so that the same posterior has the same approximation to the bit.
    start = np.random.default_rng(0).standard_normal(d)
    if not np.isfinite(scaled.matvec(start)).all():
        return None
    try:
        found: Any = eigsh(
            scaled,
            k=rank,
            which="BE",
            v0=start,
            ncv=min(d, 3 * rank),
            tol=_TOLERANCE,
            maxiter=_RESTARTS,
        )
        values, vectors = found
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    if not len(values) or not np.isfinite(values).all():
        return None
    order = np.argsort(values)
    return Curvature(scale, np.ascontiguousarray(vectors[:, order]), values[order])


def newton_steps(
    gradient: Float[np.ndarray, " d"],
    curvature: Curvature | LinearOperator | None,
    diagonal: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "n d"]:
    """Steps along which the log density rises at first: Newton's, and then shorter ones.

    Directions in which the log density is convex are taken as if they were as concave. Where the
    spectrum is known, shorter steps are damped: those along flat directions shrink first. Where
    only products are, the equations are solved by conjugate gradients as far as curvature is
    positive.

    Parameters
    ----------
    gradient : array of shape (d,)
        Gradient of the log density.
    curvature : Curvature or LinearOperator, optional
        The whole spectrum of minus the Hessian, or its products.
    diagonal : array of shape (d,)
        Diagonal of a guess at the inverse, which stands in where the Hessian is of no use.

    Returns
    -------
    array of shape (n, d)

    References
    ----------
    Nocedal and Wright (2006), Numerical optimization, algorithms 4.3 and 7.1; Dauphin et al.
    (2014), Identifying and attacking the saddle point problem in high-dimensional optimization.
    """
    if isinstance(curvature, Curvature):
        sizes = np.abs(curvature.values)
        largest = max(float(sizes.max()), np.finfo(float).tiny)
        damping = largest * np.concatenate([[_DEFINITE], np.geomspace(1e-9, 1e3, _TRIALS - 1)])
        along = (curvature.scale * gradient) @ curvature.vectors
        damped = sizes + damping[:, None]
        # Newton's own step is not damped, but where there is nothing to divide by.
        damped[0] = np.maximum(sizes, damping[0])
        steps = ((along / damped) @ curvature.vectors.T) * curvature.scale
        if np.isfinite(steps).all() and gradient @ steps[0] > 0:
            return steps
    step = None
    if isinstance(curvature, LinearOperator):
        step = _conjugate_gradients(curvature, gradient, diagonal)
    if step is None:
        step = diagonal * gradient
    return 0.5 ** np.arange(_TRIALS)[:, None] * step


def _conjugate_gradients(
    operator: LinearOperator, gradient: np.ndarray, diagonal: np.ndarray
) -> np.ndarray | None:
    """Newton's step, or what there is of it before a direction of negative curvature."""
    step, residual = np.zeros_like(gradient), gradient
    guess = diagonal * residual
    direction, size = guess, float(residual @ guess)
    # Ever more precise near the maximum, so that convergence is faster than linear.
    enough = size * min(1e-2, max(size, 1e-16))
    for _ in range(_PRODUCTS):
        product = operator.matvec(direction)
        bend = float(direction @ product)
        if not bend > 0:  # also where it is NaN
            break
        step = step + (size / bend) * direction
        residual = residual - (size / bend) * product
        guess = diagonal * residual
        before, size = size, float(residual @ guess)
        if size <= enough:
            break
        direction = guess + (size / before) * direction
    return step if np.isfinite(step).all() and gradient @ step > 0 else None


def _scales(diagonal: np.ndarray) -> np.ndarray:
    sizes = np.abs(diagonal)
    with np.errstate(all="ignore"):
        return 1.0 / np.sqrt(np.where(sizes > 0, sizes, 1.0))


def _operator(d: int, matvec: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
    make: Any = LinearOperator  # its stub knows only the base class that it makes an instance of
    return make((d, d), matvec=matvec, dtype=np.float64)
