"""The ELBO by fixed draws: the draws, and the objective as an ordinary function of a normal."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from bayes.inference.densities import densities_at, gradients_at
from bayes.inference.linear_response import hessian, hessian_product, positions_of
from bayes.problem import Problem

__all__ = ["Place", "best_start", "default_samples", "fixed_noise", "objective"]

_PAIRS, _SHRINKS = 4, 40
"""Pairs of draws that tell the best start, and how often scales are halved to find one."""


def fixed_noise(
    generator: np.random.Generator, samples: int, dimension: int
) -> Float[np.ndarray, "s d"]:
    """Standard normal draws in pairs of opposite sign, with mean 0 and variance 1 to the digit.

    Each element is stratified. With at least twice as many draws as elements, they are uncorrelated
    too, so that the mean-field normal of a normal posterior is the exact one.

    Parameters
    ----------
    generator : numpy.random.Generator
        Where they come from.
    samples : int
        How many, an even number.
    dimension : int
        Elements of each.

    Returns
    -------
    array of shape (samples, dimension)

    References
    ----------
    McKay, Beckman and Conover (1979), A comparison of three methods for selecting values of input
    variables.
    """
    from scipy.special import ndtri

    half = samples // 2
    shape = (half, dimension)
    ranks = generator.permuted(np.broadcast_to(np.arange(half)[:, None], shape), axis=0)
    size = ndtri(0.5 + 0.5 * (ranks + 0.5) / half)
    z = np.where(generator.random(shape) < 0.5, size, -size)
    if half >= dimension:
        # The nearest matrix with orthogonal columns.
        left, _, right = np.linalg.svd(z, full_matrices=False)
        z = np.sqrt(half) * (left @ right)
    else:
        z = z / np.sqrt(np.square(z).mean(axis=0))
    return np.concatenate([z, -z])


def default_samples(dimension: int) -> int:
    """Draws come in batches of 32; above 64 dimensions, uncorrelated ones would cost too much."""
    return 32 * -(-dimension // 16) if dimension <= 64 else 64


def objective(
    problem: Problem,
    mean: Float[np.ndarray, " d"],
    log_scale: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "s d"],
) -> tuple[float, Float[np.ndarray, " n"]]:
    """Minus the ELBO by fixed draws, and its gradient in units of the scales.

    Parameters
    ----------
    problem : Problem
        Model and data.
    mean, log_scale : array of shape (d,)
        The normal.
    noise : array of shape (s, d)
        Standard normal draws.

    Returns
    -------
    value : float
        Infinite where a log density or its gradient is not finite.
    gradient : array of shape (2 d,)
        By means, then by log scales.
    """
    d = problem.size
    entropy = log_scale.sum() + 0.5 * d * np.log(2.0 * np.pi * np.e)
    with np.errstate(all="ignore"):
        positions = positions_of(mean, log_scale, noise)
        densities, gradients = gradients_at(problem, positions)
        value = -densities.mean() - entropy
        slopes = -np.exp(log_scale) * gradients
        slope = np.concatenate([slopes.mean(axis=0), (noise * slopes).mean(axis=0) - 1.0])
    if not (np.isfinite(value) and np.isfinite(slope).all()):
        return np.inf, np.zeros(2 * d)
    return float(value), slope


class Place:
    """The objective around a normal, in units of its scales.

    Parameters
    ----------
    problem : Problem
        Model and data.
    mean, log_scale : array of shape (d,)
        The normal.
    noise : array of shape (s, d)
        Standard normal draws.
    """

    def __init__(
        self, problem: Problem, mean: np.ndarray, log_scale: np.ndarray, noise: np.ndarray
    ) -> None:
        self.problem, self.mean, self.log_scale, self.noise = problem, mean, log_scale, noise
        self._last: tuple[np.ndarray, float, np.ndarray] | None = None

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log scales for what the optimiser moves."""
        d = len(self.mean)
        with np.errstate(over="ignore"):
            return self.mean + np.exp(self.log_scale) * x[:d], self.log_scale + x[d:]

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective, and its gradient."""
        if self._last is None or not np.array_equal(self._last[0], x):
            value, gradient = objective(self.problem, *self.at(x), self.noise)
            self._last = x.copy(), value, gradient * self._units(x)
        return self._last[1:]

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """The objective's Hessian; zeros for what is infinite."""
        found = hessian(self.problem, *self.at(x), self.noise)
        units = self._units(x)
        return np.nan_to_num(found * np.outer(units, units), posinf=0.0, neginf=0.0)

    def product(self, x: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """The Hessian times a vector; zeros for what is infinite."""
        units = self._units(x)
        # The gradient by log scales is their part of -mean log p, less one.
        d = len(self.mean)
        curved = self.value(x)[1][d:] + 1.0
        found = hessian_product(self.problem, *self.at(x), self.noise, units * vector, curved)
        return np.nan_to_num(units * found, posinf=0.0, neginf=0.0)

    def _units(self, x: np.ndarray) -> np.ndarray:
        """Derivatives in units of the scales here, from those in units of the scales at x."""
        d = len(self.mean)
        return np.concatenate([np.exp(-x[d:]), np.ones(d)])


def best_start(
    problem: Problem, places: np.ndarray, scales: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The place and log scales that are best by a few draws; smaller scales where none is finite.

    Parameters
    ----------
    problem : Problem
        Model and data.
    places, scales : array of shape (n, d)
        Normals to choose from.
    noise : array of shape (s, d)
        Fixed draws, in pairs of opposite sign.

    Returns
    -------
    mean, log_scale : array of shape (d,)
    """
    half = len(noise) // 2
    few = np.concatenate([noise[:_PAIRS], noise[half : half + _PAIRS]])
    best = 0
    for _ in range(_SHRINKS):
        positions = places[:, None] + scales[:, None] * few
        densities = densities_at(problem, positions.reshape(-1, problem.size))
        elbo = densities.reshape(len(places), -1).mean(axis=1) + np.log(scales).sum(axis=1)
        elbo = np.where(np.isfinite(elbo), elbo, -np.inf)
        best = int(np.argmax(elbo))
        if np.isfinite(elbo[best]):
            break
        scales = 0.5 * scales
    return places[best], np.log(scales[best])
