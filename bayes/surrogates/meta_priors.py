"""Priors that a network is trained with, so that it can be given another one later."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bayes.surrogates.mixtures import Mixture

__all__ = ["MetaPrior", "around"]

MetaPrior = Callable[[Array], Mixture]
"""From a key to a mixture on the flat unconstrained space."""

_MOVED, _SHARP = 0.35, 0.35
"""Shares of priors that are the program's own, moved, and of single normals."""


def around(own: Mixture) -> MetaPrior:
    """Priors around the program's own one, in coordinates in which that has a scale of one.

    Some are its own components moved and scaled; some are one normal, from nearly as wide as the
    own prior to forty times narrower, as posteriors are that become priors; some are components
    that lie apart.

    Parameters
    ----------
    own : Mixture
        The program's own prior.
    """
    components, d = own.components, own.size

    def draw(key: Array) -> Mixture:
        # Few calls for random numbers: each of them takes long to compile.
        first, second = jax.random.split(key)
        numbers = jax.random.normal(first, (max(components, 2), 3 * d + d * d))
        u = jax.random.uniform(second, (2 + components,), minval=1e-7)
        options = (
            _moved(own, numbers, u[1]),
            _sharp(numbers[:components], d, u[1]),
            _clusters(numbers[:components], d, u[1], -jnp.log(u[2:])),
        )
        which = jnp.where(u[0] < _MOVED, 0, jnp.where(u[0] < _MOVED + _SHARP, 1, 2))
        return jax.tree.map(lambda *v: jnp.stack(v)[which], *options)

    return draw


def _moved(own: Mixture, numbers: Array, far: Array) -> Mixture:
    d = own.size
    shift = 1.5 * far * numbers[0, :d]
    log_scale = jnp.clip(0.7 * numbers[1, :d], -2.0, 0.7)
    scale = jnp.exp(log_scale)
    return Mixture(
        jnp.asarray(own.log_weights),
        jnp.asarray(own.means * scale + shift),
        jnp.asarray(own.log_scales + log_scale),
        jnp.asarray(own.coefficients * (scale[:, None] / scale)),
    )


def _below(numbers: Array, d: int) -> Array:
    """Coefficients of conditional means, smaller where there are many."""
    size = 0.7 / jnp.sqrt(jnp.maximum(jnp.arange(d), 1.0))[:, None]
    return jnp.tril(size * numbers.reshape(-1, d, d), -1)


def _sharp(numbers: Array, d: int, wide: Array) -> Mixture:
    """One normal, its components nearly the same."""
    components = len(numbers)
    log_scale = -3.7 * wide + 0.4 * numbers[0, :d]
    near = 0.3 * numbers[:, 2 * d : 3 * d] * jnp.exp(log_scale)
    below = jnp.broadcast_to(_below(numbers[0, 3 * d :], d), (components, d, d))
    equal = jnp.full(components, -jnp.log(float(components)))
    log_scales = jnp.broadcast_to(log_scale, (components, d))
    return Mixture(equal, 1.2 * numbers[0, d : 2 * d] + near, log_scales, below)


def _clusters(numbers: Array, d: int, wide: Array, waits: Array) -> Mixture:
    """Components that lie apart, with weights uniform on the simplex."""
    log_spread = 0.3 - 2.8 * wide
    means = 0.7 * numbers[0, :d] + jnp.exp(log_spread) * numbers[:, d : 2 * d]
    log_scales = log_spread - 0.7 + 0.6 * numbers[:, 2 * d : 3 * d]
    log_weights = jnp.maximum(jnp.log(waits / waits.sum()), -14.0)
    return Mixture(
        log_weights - jax.nn.logsumexp(log_weights),
        means,
        log_scales,
        _below(numbers[:, 3 * d :], d),
    )
