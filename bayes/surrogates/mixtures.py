"""Mixtures of normals in triangular form: what a surrogate is given for a prior, and gives back.

Every component is a chain of conditional normals in the order of the elements,

    x_i | x_1, ..., x_{i-1} ~ N(m_i - sum_{j<i} a_ij (x_j - m_j), exp(s_i)^2),

so that its density needs products only, draws one substitution, and the conditional of any element
given those before it is at hand. The coefficients a are those of regressions: they stay of the
order of one where components are narrow. (Pourahmadi 1999, Joint mean-covariance models with
applications to longitudinal data: the modified Cholesky decomposition of a precision matrix.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array, Float

__all__ = [
    "Mixture",
    "conditional_sample",
    "covariances",
    "element_log_probs",
    "from_tokens",
    "head",
    "log_prob",
    "mixture_of_covariances",
    "moments",
    "moved",
    "sample",
    "to_tokens",
    "token_size",
]

_LOG_TAU = float(np.log(2.0 * np.pi))
Values = Array | np.ndarray


class Mixture(NamedTuple):
    """A mixture of normals, or many of them with leading dimensions.

    Parameters
    ----------
    log_weights : array of shape (..., k)
        Logs of the weights, which sum to one.
    means : array of shape (..., k, d)
        Means m of the components.
    log_scales : array of shape (..., k, d)
        Logs s of the standard deviations of each element given those before it.
    coefficients : array of shape (..., k, d, d)
        Coefficients a, strictly lower triangular.
    """

    log_weights: Float[Values, "*lead k"]
    means: Float[Values, "*lead k d"]
    log_scales: Float[Values, "*lead k d"]
    coefficients: Float[Values, "*lead k d d"]

    @property
    def size(self) -> int:
        """Number of elements d."""
        return self.means.shape[-1]

    @property
    def components(self) -> int:
        """Number of components k."""
        return self.means.shape[-2]


def _broadcasting(function: Callable) -> Callable:
    """Many positions under one mixture broadcast, whatever JAX is told of ranks elsewhere."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return run


def _standard(mixture: Mixture, x: Values) -> tuple[Array, Array]:
    """Standard scores of positions under every component, and the distances from its mean."""
    away = jnp.asarray(x)[..., None, :] - jnp.asarray(mixture.means)
    score = away + jnp.einsum("...ij,...j->...i", mixture.coefficients, away)
    return score * jnp.exp(-mixture.log_scales), away


@_broadcasting
def log_prob(mixture: Mixture, x: Float[Values, "*lead d"]) -> Float[Array, "*lead"]:
    """Log density at positions; leading dimensions broadcast against those of the mixture."""
    z, _ = _standard(mixture, x)
    parts = -0.5 * jnp.square(z).sum(-1) - mixture.log_scales.sum(-1)
    return jax.nn.logsumexp(mixture.log_weights + parts, axis=-1) - 0.5 * mixture.size * _LOG_TAU


@_broadcasting
def element_log_probs(mixture: Mixture, x: Float[Values, "*lead d"]) -> Float[Array, "*lead d"]:
    """Log density of every element given those before it; they add up to that of the position."""
    z, _ = _standard(mixture, x)
    each = -0.5 * jnp.square(z) - mixture.log_scales - 0.5 * _LOG_TAU
    joint = mixture.log_weights[..., None] + jnp.cumsum(each, axis=-1)
    first = jax.nn.logsumexp(joint, axis=-2)
    return first - jnp.concatenate([jnp.zeros_like(first[..., :1]), first[..., :-1]], axis=-1)


@_broadcasting
def sample(mixture: Mixture, key: Array, count: int) -> Float[Array, "count *lead d"]:
    """Independent draws of one mixture, or of each of many.

    Parameters
    ----------
    mixture : Mixture
        With any leading dimensions.
    key : key
        Random key.
    count : int
        Draws of each.

    Returns
    -------
    array of shape (count, ..., d)
    """
    which, noise = jax.random.split(key)
    lead, d = mixture.log_weights.shape[:-1], mixture.size
    owners = jax.random.categorical(which, mixture.log_weights, shape=(count, *lead))
    chosen = owners[..., None, None]

    def of_owner(part: Values) -> Array:
        shape = (count, *lead, part.shape[-2], part.shape[-1])
        index = jnp.broadcast_to(chosen, (*owners.shape, 1, part.shape[-1]))
        return jnp.take_along_axis(jnp.broadcast_to(part, shape), index, axis=-2)[..., 0, :]

    means, log_scales = of_owner(mixture.means), of_owner(mixture.log_scales)
    steps = jax.random.normal(noise, means.shape, means.dtype) * jnp.exp(log_scales)
    if d == 1:
        return means + steps
    rows = jnp.asarray(mixture.coefficients).reshape(*lead, mixture.components, d * d)
    away = _substitute(of_owner(rows).reshape(*owners.shape, d, d), steps)
    return means + away


def head(mixture: Mixture, count: int) -> Mixture:
    """The mixture of the first elements alone."""
    return Mixture(
        mixture.log_weights,
        mixture.means[..., :count],
        mixture.log_scales[..., :count],
        mixture.coefficients[..., :count, :count],
    )


@_broadcasting
def conditional_sample(
    mixture: Mixture, before: Float[Values, " s"], key: Array, shape: tuple[int, ...] = ()
) -> Float[Array, "*shape r"]:
    """Independent draws of the last elements of one mixture given the first ones.

    Parameters
    ----------
    mixture : Mixture
        Without leading dimensions.
    before : array of shape (s,)
        The first elements, none of them or some.
    key : key
        Random key.
    shape : tuple of int
        Shape of the draws.

    Returns
    -------
    array of shape (*shape, d - s)
    """
    which, noise = jax.random.split(key)
    s, known, away = before.shape[0], jnp.asarray(mixture.log_weights), None
    if s:
        first = head(mixture, s)
        z, away = _standard(first, before)
        # How likely each component is once the first elements are known.
        known = known - 0.5 * jnp.square(z).sum(-1) - first.log_scales.sum(-1)
    owners = jax.random.categorical(which, known, shape=shape)
    last = slice(s, None) if s else slice(None)
    means, log_scales, below = (jnp.asarray(v)[owners] for v in mixture[1:])
    steps = jax.random.normal(noise, (*shape, mixture.size - s), means.dtype)
    steps = steps * jnp.exp(log_scales[..., last])
    if away is not None:
        steps = steps - jnp.einsum("...ij,...j->...i", below[..., s:, :s], away[owners])
    # A loop over elements, as for many draws, is long to trace.
    unit = jnp.eye(mixture.size - s, dtype=steps.dtype) + below[..., last, last]
    found = jax.scipy.linalg.solve_triangular(
        unit, steps[..., None], lower=True, unit_diagonal=True
    )
    return means[..., last] + found[..., 0]


def _substitute(coefficients: Array, steps: Array) -> Array:
    """Solve (I + A) e = steps for strictly lower triangular A, element by element."""
    found = [steps[..., 0]]
    for i in range(1, steps.shape[-1]):
        before = jnp.stack(found, axis=-1)
        found.append(steps[..., i] - jnp.sum(coefficients[..., i, :i] * before, axis=-1))
    return jnp.stack(found, axis=-1)


def mixture_of_covariances(
    weights: Float[np.ndarray, " k"],
    means: Float[np.ndarray, "k d"],
    covariances: Float[np.ndarray, "k d d"],
) -> Mixture:
    """The mixture with these weights, means and covariance matrices.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where a matrix is not positive definite.
    """
    lower = np.linalg.cholesky(covariances)
    scales = np.diagonal(lower, axis1=-2, axis2=-1)
    unit = lower / scales[..., None, :]
    inverse = np.linalg.inv(unit)
    strictly = np.tril(inverse, -1)
    weights = np.asarray(weights, float)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum())
    return Mixture(log_weights, np.asarray(means, float), np.log(scales), strictly)


def covariances(mixture: Mixture) -> Float[np.ndarray, "*lead k d d"]:
    """Covariance matrices of the components."""
    d = mixture.size
    inverse = np.linalg.inv(np.eye(d) + np.asarray(mixture.coefficients, float))
    factor = inverse * np.exp(np.asarray(mixture.log_scales, float))[..., None, :]
    return factor @ np.swapaxes(factor, -1, -2)


def moments(
    mixture: Mixture,
) -> tuple[Float[np.ndarray, "*lead d"], Float[np.ndarray, "*lead d d"]]:
    """Mean and covariance of a mixture as a whole."""
    weights = np.exp(np.asarray(mixture.log_weights, float))[..., None]
    means = np.asarray(mixture.means, float)
    mean = (weights * means).sum(-2)
    away = means - mean[..., None, :]
    between = away[..., :, None] * away[..., None, :]
    within = covariances(mixture) + between
    return mean, (weights[..., None] * within).sum(-3)


@_broadcasting
def moved(mixture: Mixture, shift: Float[Values, " d"], scale: Float[Values, " d"]) -> Mixture:
    """The mixture of shift + scale x, element by element, for positive scales."""
    return Mixture(
        mixture.log_weights,
        shift + scale * mixture.means,
        mixture.log_scales + jnp.log(scale),
        mixture.coefficients * (scale[:, None] / scale),
    )


# ------------------------------------------------------------------------ tokens


def token_size(d: int) -> int:
    """Numbers that describe one component."""
    return 1 + 2 * d + d * (d - 1) // 2


@_broadcasting
def to_tokens(mixture: Mixture) -> Float[Array, "*lead k t"]:
    """One row of numbers a component: log weight, mean, log scales, coefficients below."""
    rows, columns = np.tril_indices(mixture.size, -1)
    below = mixture.coefficients[..., rows, columns]
    weights = jnp.asarray(mixture.log_weights)[..., None]
    return jnp.concatenate([weights, mixture.means, mixture.log_scales, below], axis=-1)


def from_tokens(tokens: Float[Array, "*lead k t"], d: int) -> Mixture:
    """The mixture of rows of numbers; log weights need not be normalised."""
    below = tokens[..., 1 + 2 * d :]
    coefficients = jnp.zeros((*tokens.shape[:-1], d, d), tokens.dtype)
    if d > 1:
        rows, columns = np.tril_indices(d, -1)
        coefficients = coefficients.at[..., rows, columns].set(below)
    return Mixture(
        jax.nn.log_softmax(tokens[..., 0], axis=-1),
        tokens[..., 1 : 1 + d],
        tokens[..., 1 + d : 1 + 2 * d],
        coefficients,
    )
