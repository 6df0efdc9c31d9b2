"""The log evidence of Kronecker-structured variances and its gradient, for JAX.

The covariance of the observations is v I + G_1 x ... x G_I with G_i = H_i diag(g_i) H_i^H. The log
density is a function of the small G_i of which the gradient has a closed form: no eigenvector is
differentiated, which would be undefined where eigenvalues coincide.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bayes.distributions.products import mode_products

__all__ = ["log_evidence_of", "observe_data"]


def log_evidence_of(
    factors: Sequence[ArrayLike],
    y: ArrayLike,
    outside: ArrayLike,
    energy: ArrayLike,
    relevances: Sequence[ArrayLike],
    variance: ArrayLike,
) -> Float[Array, ""]:
    """Log density of observations given the variances, for JAX.

    The gradient is exact in every argument; derivatives of it are not available.

    Parameters
    ----------
    factors, y, outside, energy
        As in :class:`bayes.inference.kronecker.evidence.Observations`; the numbers are complex
        where ``y`` or a factor is.
    relevances : sequence of array of shape (n_i,)
        Factors of the prior variances, in squared units of the coefficients.
    variance : float
        Of the noise; of complex noise that of both parts together, in squared units of ``y``.

    Returns
    -------
    float
    """
    dtype = jnp.result_type(float, y, *factors)
    y = jnp.asarray(y).astype(dtype)
    variance = jnp.asarray(variance)
    covariances = []
    for factor, relevance in zip(factors, relevances, strict=True):
        h = jnp.asarray(factor).astype(dtype)
        covariances.append((h * jnp.asarray(relevance)[None]) @ h.conj().T)
    halves, tau = _constants(dtype)
    beyond = outside * (jnp.log(variance) + jnp.log(tau)) + energy / variance
    return _evidence(tuple(covariances), y, variance) - halves * beyond


def _constants(dtype: Any) -> tuple[float, float]:
    """One half and 2 pi of a real normal's log density; one and pi of a complex one's."""
    return (1.0, np.pi) if jnp.issubdtype(dtype, jnp.complexfloating) else (0.5, 2.0 * np.pi)


@jax.custom_vjp
def _evidence(covariances: tuple[Array, ...], y: Array, variance: Array) -> Array:
    """Log density of the observations that coefficients reach."""
    return _forward(covariances, y, variance)[0]


def _forward(covariances: tuple[Array, ...], y: Array, variance: Array) -> tuple[Array, Any]:
    values, vectors = zip(*map(jnp.linalg.eigh, covariances), strict=True)
    values = tuple(jnp.maximum(s, 0.0) for s in values)
    precision = 1.0 / (variance + _outer(values))
    turned = mode_products(y, [u.conj().T for u in vectors])
    weighted = turned * precision[None]
    halves, tau = _constants(y.dtype)
    square = jnp.sum((turned.conj() * weighted).real)
    logs = len(y) * jnp.sum(jnp.log(precision)) - y.size * np.log(tau)
    return halves * (logs - square), (values, vectors, precision, weighted)


def _backward(kept: Any, cotangent: Array) -> tuple[tuple[Array, ...], Array, Array]:
    """The derivatives by G_i, y and v.

    With w = S^-1 y, dG changes the log density by w^H (dG x others) w - tr(S^-1 (dG x others)),
    halved where real. In the eigenvectors the others are diagonal.
    """
    values, vectors, precision, weighted = kept
    halves, _ = _constants(weighted.dtype)
    scale = halves * cotangent
    snapshots = len(weighted)
    by_covariance = []
    for axis, u in enumerate(vectors):
        others = _outer([jnp.ones_like(s) if i == axis else s for i, s in enumerate(values)])
        rest = [i for i in range(weighted.ndim) if i != axis + 1]
        pull = jnp.tensordot(weighted * others[None], weighted.conj(), (rest, rest))
        push = snapshots * jnp.sum(precision * others, [i - 1 for i in rest[1:]])
        # JAX has the derivative by a complex number so that its real product with a change counts.
        by_covariance.append(scale * (u @ (pull - jnp.diag(push)) @ u.conj().T).T)
    by_y = -2.0 * scale * mode_products(weighted, vectors).conj()
    squares = jnp.sum((weighted.conj() * weighted).real)
    by_variance = scale * (squares - snapshots * jnp.sum(precision))
    return tuple(by_covariance), by_y, by_variance


_evidence.defvjp(_forward, _backward)


def _outer(vectors: Sequence[Array]) -> Array:
    return functools.reduce(lambda a, b: jnp.tensordot(a, b, 0), vectors)


def observe_data(
    factors: Sequence[ArrayLike], y: Array
) -> tuple[tuple[Array, ...], Array, int, Array]:
    """Reduce tall factors, for JAX: the data of a program are arguments of compiled functions.

    Parameters
    ----------
    factors : sequence of array of shape (m_i, n_i)
        Factors of the dictionary.
    y : array of shape (L, m_1, ..., m_I)
        Observations of L snapshots.

    Returns
    -------
    tuple
        The fields of :class:`bayes.inference.kronecker.evidence.Observations`.
    """
    found, reduced = [], y
    for axis, factor in enumerate(map(jnp.asarray, factors)):
        if factor.shape[0] > factor.shape[1]:
            basis, factor = jnp.linalg.qr(factor)
            product = jnp.tensordot(reduced, basis.conj(), ((axis + 1,), (0,)))
            reduced = jnp.moveaxis(product, -1, axis + 1)
        found.append(factor)
    outside = y.size - reduced.size
    if not outside:
        return tuple(found), reduced, 0, jnp.zeros(())
    energy = jnp.sum(jnp.abs(y) ** 2) - jnp.sum(jnp.abs(reduced) ** 2)
    return tuple(found), reduced, outside, jnp.maximum(energy, 0.0)
