"""Components of a prior updated by the likelihood's first two derivatives: a first guess.

Every component is updated as a Gaussian-sum filter does it, with a quadratic expansion of the log
likelihood about its mean, and reweighted by the evidence that this gives it. Where the likelihood
is normal and linear that is the posterior; elsewhere it is where a network begins, and by how much
it departs from it is learned. (Alspach and Sorenson 1972, Nonlinear Bayesian estimation using
Gaussian sum approximations, IEEE Transactions on Automatic Control 17.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayes.program import Program
from bayes.surrogates.layout import Layout
from bayes.surrogates.mixtures import Mixture

__all__ = ["linearised", "log_likelihood"]

_FARTHEST = 5.0
"""Prior standard deviations by which a mean is moved at most: beyond, an expansion says little."""
_LARGEST_COEFFICIENT, _LARGEST_GAIN = 100.0, 30.0


def log_likelihood(
    program: Program, layout: Layout, position: Float[Array, " d"], arrays: Any, counts: Array
) -> Float[Array, ""]:
    """Log likelihood of the rows that there are, at a flat unconstrained position.

    Parameters
    ----------
    program : Program
        The program.
    layout : Layout
        Its observed sites.
    position : array of shape (d,)
        Flat unconstrained position.
    arrays : dict
        Array arguments of the program, padded with rows that do not count.
    counts : array of shape (source,)
        Rows that there are.
    """
    values = program.constrain(position, arrays)
    parts = program.site_log_probs({s.name: values[s.name] for s in program.latents}, arrays)
    total = jnp.zeros(())
    for i, source in enumerate(layout.sources):
        part = parts[source.site]
        if source.resizable:
            there = jnp.arange(part.shape[0]) < counts[i]
            part = jnp.where(there.reshape(-1, *(1,) * (part.ndim - 1)), part, 0.0)
        total = total + part.sum()
    return total


def linearised(prior: Mixture, likelihood: Callable[[Array], Array]) -> Mixture:
    """The components of one prior, each updated by an expansion about its mean.

    Parameters
    ----------
    prior : Mixture
        Of k components.
    likelihood : callable
        Log likelihood at a position of shape (d,).

    Returns
    -------
    Mixture
        Of k components; where derivatives are not finite, that of the prior.
    """
    slope = jax.grad(likelihood)
    means = jnp.asarray(prior.means)
    value = jax.vmap(likelihood)(means)
    gradient = jax.vmap(slope)(means)
    curvature = -jax.vmap(jax.jacfwd(slope))(means)
    fine = (
        jnp.isfinite(value) & jnp.isfinite(gradient).all(-1) & jnp.isfinite(curvature).all((1, 2))
    )
    value = jnp.where(fine, value, 0.0)
    gradient = jnp.where(fine[:, None], gradient, 0.0)
    curvature = jnp.where(fine[:, None, None], curvature, 0.0)
    rows = (jnp.eye(prior.size) + prior.coefficients) * jnp.exp(-prior.log_scales)[..., None]
    precision = jnp.swapaxes(rows, -1, -2) @ rows
    factor = _factor(precision, curvature)
    # P = T' T for the lower triangular T: two substitutions give the step.
    half = _solve(factor, gradient, transposed=True)
    step = _solve(factor, half, transposed=False)
    scores = jnp.sqrt(jnp.square(jnp.einsum("kij,kj->ki", rows, step)).sum(-1, keepdims=True))
    step = step * jnp.minimum(1.0, _FARTHEST / jnp.maximum(scores, 1e-6))
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    log_scales = -jnp.log(diagonal)
    gain = 0.5 * jnp.square(half).sum(-1) + (log_scales - prior.log_scales).sum(-1)
    log_weights = prior.log_weights + value + gain
    log_weights = jnp.maximum(log_weights - log_weights.max(), -_LARGEST_GAIN)
    coefficients = jnp.tril(factor / diagonal[..., None], -1)
    return Mixture(
        log_weights - jax.nn.logsumexp(log_weights),
        prior.means + step,
        log_scales,
        jnp.clip(coefficients, -_LARGEST_COEFFICIENT, _LARGEST_COEFFICIENT),
    )


def _factor(precision: Array, curvature: Array) -> Array:
    """T of precision + curvature = T' T; of its positive diagonal alone where there is none."""
    diagonal = jnp.maximum(jnp.diagonal(curvature, axis1=-2, axis2=-1), 0.0)
    spare = precision + diagonal[..., None] * jnp.eye(precision.shape[-1])
    whole = _lower(precision + curvature)
    there = jnp.isfinite(whole).all((-2, -1), keepdims=True)
    return jnp.where(there, whole, _lower(spare))


def _lower(matrix: Array) -> Array:
    """T, from a Cholesky factor in reverse order of the elements."""
    reverse = matrix[..., ::-1, ::-1]
    if matrix.shape[-1] == 1:
        return jnp.sqrt(reverse)
    return jnp.swapaxes(jnp.linalg.cholesky(reverse), -1, -2)[..., ::-1, ::-1]


def _solve(lower: Array, right: Array, *, transposed: bool) -> Array:
    """T' x = right, or T x = right."""
    if lower.shape[-1] == 1:
        return right / lower[..., 0]
    solve = jax.scipy.linalg.solve_triangular
    found = solve(lower, right[..., None], lower=True, trans=1 if transposed else 0)
    return found[..., 0]
