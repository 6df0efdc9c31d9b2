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
        kind, first, second, third = jax.random.split(key, 4)
        options = (
            _moved(own, first),
            _sharp(components, d, second),
            _clusters(components, d, third),
        )
        u = jax.random.uniform(kind)
        which = jnp.where(u < _MOVED, 0, jnp.where(u < _MOVED + _SHARP, 1, 2))
        return jax.tree.map(lambda *v: jnp.stack(v)[which], *options)

    return draw


def _moved(own: Mixture, key: Array) -> Mixture:
    a, b, c = jax.random.split(key, 3)
    d = own.size
    far = jax.random.uniform(c, (), minval=0.0, maxval=1.5)
    shift = far * jax.random.normal(a, (d,))
    log_scale = jnp.clip(0.7 * jax.random.normal(b, (d,)), -2.0, 0.7)
    scale = jnp.exp(log_scale)
    return Mixture(
        jnp.asarray(own.log_weights, jnp.float32),
        jnp.asarray(own.means * scale + shift, jnp.float32),
        jnp.asarray(own.log_scales + log_scale, jnp.float32),
        jnp.asarray(own.coefficients * (scale[:, None] / scale), jnp.float32),
    )


def _below(key: Array, components: int, d: int) -> Array:
    """Coefficients of conditional means, smaller where there are many."""
    size = 0.7 / jnp.sqrt(jnp.maximum(jnp.arange(d), 1.0))[:, None]
    return jnp.tril(size * jax.random.normal(key, (components, d, d)), -1)


def _sharp(components: int, d: int, key: Array) -> Mixture:
    """One normal, its components nearly the same."""
    a, b, c, e, f = jax.random.split(key, 5)
    width = jax.random.uniform(a, (), minval=-3.7, maxval=0.0)
    log_scale = width + 0.4 * jax.random.normal(b, (d,))
    mean = 1.2 * jax.random.normal(c, (d,))
    near = 0.3 * jax.random.normal(e, (components, d)) * jnp.exp(log_scale)
    below = jnp.broadcast_to(_below(f, 1, d), (components, d, d))
    equal = jnp.full(components, -jnp.log(float(components)))
    log_scales = jnp.broadcast_to(log_scale, (components, d))
    return Mixture(equal, mean + near, log_scales, below)


def _clusters(components: int, d: int, key: Array) -> Mixture:
    """Components that lie apart."""
    a, b, c, e, f, g = jax.random.split(key, 6)
    weights = jax.random.dirichlet(a, jnp.ones(components))
    spread = jnp.exp(jax.random.uniform(b, (), minval=-2.5, maxval=0.3))
    centre = 0.7 * jax.random.normal(c, (d,))
    means = centre + spread * jax.random.normal(e, (components, d))
    log_scales = jnp.log(spread) - 0.7 + 0.6 * jax.random.normal(f, (components, d))
    log_weights = jnp.log(jnp.maximum(weights, 1e-6))
    return Mixture(
        log_weights - jax.nn.logsumexp(log_weights),
        means,
        log_scales,
        _below(g, components, d),
    )
