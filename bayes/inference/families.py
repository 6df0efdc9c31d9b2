"""Families of approximations as functions of standard normal noise, in JAX.

A family works on coordinates that are standardised by a start, so that its parameters begin as
those of a standard normal. Its direction is the natural gradient, or near it: steps of one size
then suit posteriors of any shape.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from bayes.normals import Normal, normal_of_covariance

__all__ = ["Family", "FullRank", "LowRank", "MeanField", "Params"]

Params = dict[str, Any]
"""Arrays by name."""

_LOG_TAU = float(np.log(2.0 * np.pi))


@dataclasses.dataclass(frozen=True)
class Family(abc.ABC):
    """Distributions that one can draw from by a smooth function of parameters and noise.

    Two families that are equal have the same functions, so that they can be keys of what is
    compiled.
    """

    adaptive = False
    """Whether its direction is a plain gradient, which an optimiser has to scale."""
    rough = 1.0
    """How much less exact its parameters may be: those of a network come to rest late."""
    curved = False
    """Whether its direction needs a metric."""

    @abc.abstractmethod
    def init(self, size: int, generator: np.random.Generator) -> Params:
        """Parameters of a standard normal, or nearly."""

    def noise(self, size: int) -> int:
        """Standard normal numbers of a draw."""
        return size

    def step(self, size: int, pairs: int) -> float:
        """Step size to begin with, for gradients of so many pairs of draws."""
        return 0.1

    @abc.abstractmethod
    def draw(self, params: Params, noise: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Draws of noise."""

    @abc.abstractmethod
    def log_prob(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Log density at positions."""

    def direction(self, params: Params, gradient: Params, metric: Array) -> Params:
        """Where to go by a gradient of the parameters.

        ``metric`` is a guess at the inverse curvature of the log density, of shape (d, d), or of
        (0, 0) where there is none.
        """
        return gradient

    def move(self, params: Params, change: Params) -> Params:
        """Parameters after a change, in the terms of ``direction``."""
        return jax.tree.map(jnp.add, params, change)

    def normal(self, params: Params) -> Normal | None:
        """As a normal distribution, on the host; None where it is none."""
        return None


@dataclasses.dataclass(frozen=True)
class MeanField(Family):
    """Normals of independent elements.

    References
    ----------
    Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), Automatic differentiation variational
    inference.
    """

    curved = True

    def init(self, size: int, generator: np.random.Generator) -> Params:
        """Parameters of a standard normal."""
        return {"mean": np.zeros(size), "log_scale": np.zeros(size)}

    def draw(self, params: Params, noise: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Draws of noise."""
        return params["mean"][None] + jnp.exp(params["log_scale"])[None] * noise

    def log_prob(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Log density at positions."""
        z = (x - params["mean"][None]) * jnp.exp(-params["log_scale"])[None]
        return -0.5 * (z * z + _LOG_TAU).sum(-1) - params["log_scale"].sum()

    def direction(self, params: Params, gradient: Params, metric: Array) -> Params:
        """The natural gradient: the Fisher information is 1/s^2 of a mean, 2 of a log scale.

        It knows nothing of correlations, along which the mean then creeps; the metric does.
        """
        if metric.shape[0]:
            mean = metric @ gradient["mean"]
        else:
            mean = jnp.exp(2.0 * params["log_scale"]) * gradient["mean"]
        return {"mean": mean, "log_scale": 0.5 * gradient["log_scale"]}

    def normal(self, params: Params) -> Normal:
        """As a normal distribution."""
        size = len(params["mean"])
        scale = np.exp(np.asarray(params["log_scale"]))
        return Normal(np.asarray(params["mean"]), scale, np.zeros((size, 0)), np.zeros(0))


@dataclasses.dataclass(frozen=True)
class FullRank(Family):
    """All normals: x = m + L z with a lower triangular L.

    References
    ----------
    Tan (2021), Natural gradient updates for Cholesky factor of covariance and precision. Titsias
    and Lázaro-Gredilla (2014), Doubly stochastic variational Bayes for non-conjugate inference.
    """

    def init(self, size: int, generator: np.random.Generator) -> Params:
        """Parameters of a standard normal."""
        return {"mean": np.zeros(size), "factor": np.eye(size)}

    def step(self, size: int, pairs: int) -> float:
        """Step size to begin with.

        The noise of the factor's direction is in proportion to its error: with z z' of p draws in
        place of its mean the error grows unless the step is below about 2 / (1 + (d + 1) / p).
        """
        return min(0.1, 0.5 / (1.0 + (size + 1.0) / pairs))

    def draw(self, params: Params, noise: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Draws of noise."""
        return params["mean"][None] + noise @ jnp.tril(params["factor"]).T

    def log_prob(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Log density at positions."""
        factor = jnp.tril(params["factor"])
        z = solve_triangular(factor, (x - params["mean"][None]).T, lower=True)
        return -0.5 * (z * z + _LOG_TAU).sum(0) - jnp.log(jnp.diagonal(factor)).sum()

    def direction(self, params: Params, gradient: Params, metric: Array) -> Params:
        """The natural gradient in the frame of the factor: m + L a, L (I + B), (Tan 2021, (6))."""
        factor = jnp.tril(params["factor"])
        inner = jnp.tril(factor.T @ jnp.tril(gradient["factor"]))
        inner = inner - 0.5 * jnp.diag(jnp.diagonal(inner))
        return {"mean": factor.T @ gradient["mean"], "factor": inner}

    def move(self, params: Params, change: Params) -> Params:
        """Parameters after a change in the factor's frame; its diagonal stays positive."""
        factor, inner = jnp.tril(params["factor"]), jnp.tril(change["factor"])
        diagonal = jnp.diagonal(inner)
        step = inner + jnp.diag(jnp.exp(diagonal) - diagonal)
        return {"mean": params["mean"] + factor @ change["mean"], "factor": factor @ step}

    def normal(self, params: Params) -> Normal:
        """As a normal distribution."""
        factor = np.tril(np.asarray(params["factor"]))
        return normal_of_covariance(np.asarray(params["mean"]), factor @ factor.T)


@dataclasses.dataclass(frozen=True)
class LowRank(Family):
    """Normals with covariance D (I + W W') D, D diagonal and W of some columns.

    Parameters
    ----------
    rank : int
        Columns of W.

    References
    ----------
    Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance
    structure.
    """

    rank: int = 10

    def init(self, size: int, generator: np.random.Generator) -> Params:
        """Parameters of a standard normal, nearly: at W = 0 its gradient is zero."""
        columns = min(self.rank, size)
        return {
            "mean": np.zeros(size),
            "log_scale": np.zeros(size),
            "columns": 0.1 / np.sqrt(size) * generator.standard_normal((size, columns)),
        }

    def noise(self, size: int) -> int:
        """Standard normal numbers of a draw: those of the columns come last."""
        return size + min(self.rank, size)

    def draw(self, params: Params, noise: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Draws of noise."""
        size = params["mean"].shape[0]
        z = noise[:, :size] + noise[:, size:] @ params["columns"].T
        return params["mean"][None] + jnp.exp(params["log_scale"])[None] * z

    def log_prob(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Log density at positions, by the matrix inversion and determinant lemmas."""
        columns = params["columns"]
        z = (x - params["mean"][None]) * jnp.exp(-params["log_scale"])[None]
        factor = jnp.linalg.cholesky(jnp.eye(columns.shape[1]) + columns.T @ columns)
        within = solve_triangular(factor, (z @ columns).T, lower=True)
        squares = (z * z + _LOG_TAU).sum(-1) - (within * within).sum(0)
        return -0.5 * squares - params["log_scale"].sum() - jnp.log(jnp.diagonal(factor)).sum()

    def direction(self, params: Params, gradient: Params, metric: Array) -> Params:
        """The gradient times the covariance: natural for the mean, and of its scale for W."""
        scale, columns = jnp.exp(params["log_scale"]), params["columns"]

        def covariance(v: Array) -> Array:
            return v + columns @ (columns.T @ v)

        return {
            "mean": scale * covariance(scale * gradient["mean"]),
            "log_scale": 0.5 * gradient["log_scale"],
            "columns": 0.5 * covariance(gradient["columns"]),
        }

    def normal(self, params: Params) -> Normal:
        """As a normal distribution."""
        vectors, stretch, _ = np.linalg.svd(np.asarray(params["columns"]), full_matrices=False)
        scale = np.exp(np.asarray(params["log_scale"]))
        return Normal(np.asarray(params["mean"]), scale, vectors, 1.0 + stretch**2)
