"""Compiled work of one chain: a block of iterations, and the entry into new coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from numpyro.infer.hmc_util import (
    dual_averaging,
    euclidean_kinetic_energy,
    find_reasonable_step_size,
)

from bayes.inference.transitions import Point

__all__ = ["block_function", "restart_function"]


def _whitened(log_density: Callable, factor: Array, arrays: Any) -> Callable:
    def potential(z: Array) -> Array:
        return -log_density(factor * z if factor.ndim == 1 else factor @ z, arrays)

    return potential


def restart_function(log_density: Callable) -> Callable:
    """A function that evaluates a chain's new coordinates and finds a first step size there."""

    def restart(z: Array, factor: Array, step: Array, key: Array, arrays: Any) -> tuple:
        potential = _whitened(log_density, factor, arrays)
        value, gradient = jax.value_and_grad(potential)(z)
        # A first step that a steep gradient turns into a leap may end where a solver never does.
        step = jnp.minimum(step, 1.0 / jnp.sqrt(jnp.maximum(jnp.linalg.norm(gradient), 1e-300)))
        found = find_reasonable_step_size(
            potential,
            euclidean_kinetic_energy,
            lambda x, _, k: jax.random.normal(k, x.shape, x.dtype),
            step,
            jnp.ones_like(z),
            (z, None, value, gradient),
            key,
        )
        return value, gradient, found

    return restart


def block_function(log_density: Callable, transition: Callable, size: int) -> Callable:
    """A function that runs up to ``size`` iterations of one chain.

    The randomness of an iteration comes from its number alone, so that the draws do not depend on
    how iterations are cut into blocks.
    """
    _, update = dual_averaging()

    def block(
        point: Point,
        log_step: Array,
        averaging: Array,
        key: Array,
        first: Array,
        count: Array,
        adapt: Array,
        target: Array,
        depth: Array,
        factor: Array,
        arrays: Any,
    ) -> tuple:
        potential = _whitened(log_density, factor, arrays)
        dimension = point.z.shape[0]
        buffers = {
            "position": jnp.zeros((size, dimension)),
            "whitened_gradient": jnp.zeros((size, dimension)),
            "lp": jnp.zeros(size),
            "energy": jnp.zeros(size),
            "acceptance_rate": jnp.zeros(size),
            "n_steps": jnp.zeros(size, jnp.int64),
            "tree_depth": jnp.zeros(size, jnp.int64),
            "diverging": jnp.zeros(size, bool),
        }

        def body(i: Array, loop: tuple) -> tuple:
            point, log_step, averaging, buffers = loop
            new, report = transition(
                potential, jax.random.fold_in(key, first + i), point, jnp.exp(log_step), depth
            )
            next_averaging = jnp.stack(update(target - report.acceptance, tuple(averaging)))
            averaging = jnp.where(adapt, next_averaging, averaging)
            log_step = jnp.where(adapt, next_averaging[0], log_step)
            row = {
                "position": factor * new.z if factor.ndim == 1 else factor @ new.z,
                "whitened_gradient": -new.gradient,
                "lp": -new.potential,
                "energy": report.energy,
                "acceptance_rate": report.acceptance,
                "n_steps": report.leapfrogs,
                "tree_depth": report.depth,
                "diverging": report.diverging,
            }
            buffers = {k: b.at[i].set(row[k]) for k, b in buffers.items()}
            return new, log_step, averaging, buffers

        loop = jax.lax.fori_loop(0, count, body, (point, log_step, averaging, buffers))
        return loop[:3], loop[3]

    return block
