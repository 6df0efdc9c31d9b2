"""The prior of a program on the unconstrained space: log density, gradient and Hessian.

It is the program's log density with what it observes masked, log Jacobians included, so that a
posterior's log density is this plus the log likelihood. Discrete latent sites are summed out, and
without observations they sum to one.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from numpyro.primitives import Messenger

from bayes.inference.randomness import Purpose, generator_of
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.program import Program

__all__ = ["likelihood_sites", "log_prior_at", "prior_curvature", "prior_diagonal"]

_BATCH, _PRODUCTS = 256, 32
"""Positions, and products with a Hessian, that are computed at once."""


class _Masked(Messenger):
    """Handler that leaves the log densities of some observed sites and factors out."""

    def __init__(self, fn: Any, names: frozenset[str]) -> None:
        super().__init__(fn)
        self.names = names

    def process_message(self, msg: Any) -> None:
        """Mask a site that is among the names."""
        if msg["type"] == "sample" and msg["is_observed"] and msg["name"] in self.names:
            msg["fn"] = msg["fn"].mask(False)


def likelihood_sites(problem: Problem) -> frozenset[str]:
    """Names of the observed sites and factors."""
    return frozenset(s.name for s in problem.sites.values() if s.kind in ("observed", "factor"))


def _prior_program(problem: Problem, masked: frozenset[str]) -> Program:
    """The program without the sites that are masked."""

    def build() -> Program:
        twin = copy.copy(problem.program)
        twin.fn, twin.compiled = _Masked(problem.program.fn, masked), {}
        return twin

    return problem.program.once(("prior", masked), build)


def log_prior_at(
    problem: Problem, positions: Float[np.ndarray, "n d"], masked: Collection[str] | None = None
) -> Float[np.ndarray, " n"]:
    """Log prior at positions, log Jacobians included.

    Parameters
    ----------
    problem : Problem
        Model and data.
    positions : array of shape (n, d)
        Flat unconstrained positions.
    masked : collection of str, optional
        Observed sites and factors that are no part of the prior; all of them by default.

    Returns
    -------
    array of shape (n,)
    """
    program = _prior_program(problem, _names(problem, masked))

    def densities(x: Any, arrays: Any) -> Any:
        return jax.lax.map(lambda y: program.log_density(y, arrays), x, batch_size=_BATCH)

    with double_precision():
        run = program.once("densities", lambda: jax.jit(densities))
        return np.asarray(run(positions, problem.arrays))


def prior_curvature(
    problem: Problem, position: Float[np.ndarray, " d"], masked: Collection[str] | None = None
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Gradient and Hessian of the log prior at a position; see :func:`log_prior_at`."""
    d = len(position)
    hessian = _products(problem, position, np.eye(d), masked)
    return _gradient(problem, position, masked), 0.5 * (hessian + hessian.T)


def prior_diagonal(
    problem: Problem, position: Float[np.ndarray, " d"], masked: Collection[str] | None = None
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Gradient of the log prior at a position and the diagonal of its Hessian.

    A prior of independent elements has a diagonal Hessian, and one product with a vector gives
    it; that two vectors of random signs give the same tells that it is one.
    """
    d = len(position)
    generator = generator_of(np.zeros(2, np.uint32), Purpose.NOISE, d)
    signs = np.where(generator.uniform(size=(2, d)) < 0.5, -1.0, 1.0)
    first, second = signs * _products(problem, position, signs, masked)
    if np.allclose(first, second, rtol=1e-10, atol=1e-12 * np.abs(first).max()):
        return _gradient(problem, position, masked), first
    diagonal = np.empty(d)
    for begin in range(0, d, _PRODUCTS):
        rows = np.arange(begin, min(begin + _PRODUCTS, d))
        units = np.zeros((len(rows), d))
        units[np.arange(len(rows)), rows] = 1.0
        products = _products(problem, position, units, masked)
        diagonal[rows] = products[np.arange(len(rows)), rows]
    return _gradient(problem, position, masked), diagonal


def _names(problem: Problem, masked: Collection[str] | None) -> frozenset[str]:
    return likelihood_sites(problem) if masked is None else frozenset(masked)


def _gradient(
    problem: Problem, position: np.ndarray, masked: Collection[str] | None
) -> Float[np.ndarray, " d"]:
    program = _prior_program(problem, _names(problem, masked))
    with double_precision():
        run = program.once("gradient", lambda: jax.jit(jax.grad(program.log_density)))
        return np.asarray(run(position, problem.arrays))


def _products(
    problem: Problem,
    position: np.ndarray,
    vectors: Float[np.ndarray, "n d"],
    masked: Collection[str] | None,
) -> Float[np.ndarray, "n d"]:
    """Products of the Hessian with vectors, a batch at a time."""
    program = _prior_program(problem, _names(problem, masked))

    def products(x: Any, v: Any, arrays: Any) -> Any:
        def one(u: Any) -> Any:
            return jax.jvp(lambda y: jax.grad(program.log_density)(y, arrays), (x,), (u,))[1]

        return jax.vmap(one)(v)

    with double_precision():
        run = program.once("products", lambda: jax.jit(products))
        found = []
        for begin in range(0, len(vectors), _PRODUCTS):
            part = vectors[begin : begin + _PRODUCTS]
            whole = np.zeros((_PRODUCTS, vectors.shape[1]))
            whole[: len(part)] = part
            found.append(np.asarray(run(position, whole, problem.arrays))[: len(part)])
    return np.concatenate(found)
