"""Mixtures of normal or Student t distributions: what importance draws are taken from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, logsumexp

from bayes.normals import Normal, push, whiten

__all__ = ["Mixture", "component", "draw", "log_prob", "mixture_of"]


class Mixture(NamedTuple):
    """A mixture of normals, or of t distributions with their means and scale matrices.

    Parameters
    ----------
    normals : Normal
        With one leading dimension, the components.
    log_weights : array of shape (m,)
        Logs of the weights, which sum to one.
    degrees : array of shape (m,)
        Degrees of freedom; inf for a normal.
    """

    normals: Normal
    log_weights: Float[np.ndarray, " m"]
    degrees: Float[np.ndarray, " m"]


def mixture_of(
    normals: list[Normal], weights: np.ndarray | None = None, degrees: float | np.ndarray = np.inf
) -> Mixture:
    """A mixture of normals, whose columns may differ in number."""
    most = max(n.values.shape[0] for n in normals)

    def padded(normal: Normal) -> Normal:
        lack = most - normal.values.shape[0]
        vectors = np.pad(normal.vectors, ((0, 0), (0, lack)))
        return normal._replace(
            vectors=vectors, values=np.pad(normal.values, (0, lack), constant_values=1.0)
        )

    joined = Normal(*(np.stack(parts) for parts in zip(*map(padded, normals), strict=True)))
    count = len(normals)
    weights = np.ones(count) if weights is None else np.asarray(weights, float)
    return Mixture(
        joined, np.log(weights / weights.sum()), np.broadcast_to(degrees, count).astype(float)
    )


def component(mixture: Mixture, i: int) -> Normal:
    """One component's normal."""
    return Normal(*(part[i] for part in mixture.normals))


def draw(
    mixture: Mixture, generator: np.random.Generator, count: int
) -> Float[np.ndarray, "count d"]:
    """Draws in random order; components have their shares of them as evenly as can be."""
    edges = np.cumsum(np.exp(mixture.log_weights))
    marks = (np.arange(count) + generator.uniform()) * (edges[-1] / count)
    owners = np.minimum(np.searchsorted(edges, marks, side="right"), len(edges) - 1)
    z = generator.standard_normal((count, mixture.normals.mean.shape[1]))
    x = np.empty_like(z)
    for i, degrees in enumerate(mixture.degrees):
        own = owners == i
        if not own.any():
            continue
        normal, steps = component(mixture, i), z[own]
        if np.isfinite(degrees):
            steps = steps * np.sqrt(degrees / generator.chisquare(degrees, own.sum()))[:, None]
        x[own] = normal.mean + push(normal, steps)
    return x[generator.permutation(count)]


def log_prob(mixture: Mixture, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Log density at positions."""
    d = x.shape[1]
    parts = np.empty((len(mixture.log_weights), len(x)))
    for i, degrees in enumerate(mixture.degrees):
        normal = component(mixture, i)
        squares = np.square(whiten(normal, x)).sum(axis=1)
        parts[i] = mixture.log_weights[i] - normal.log_scale + _profile(squares, d, degrees)
    return np.asarray(logsumexp(parts, axis=0))


def _profile(squares: np.ndarray, d: int, degrees: float) -> np.ndarray:
    """Log density of a standard t or normal distribution at a squared distance from the mean."""
    if not np.isfinite(degrees):
        return -0.5 * (squares + d * np.log(2.0 * np.pi))
    constant = gammaln(0.5 * (degrees + d)) - gammaln(0.5 * degrees)
    constant -= 0.5 * d * np.log(degrees * np.pi)
    return constant - 0.5 * (degrees + d) * np.log1p(squares / degrees)
