"""Compiled work of one chain: a block of iterations with one metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt64
from numpyro.infer.hmc_util import dual_averaging

from bayes.inference.metric import Metric
from bayes.inference.transitions import Point

__all__ = ["Adaptation", "Orders", "block_function"]


class Adaptation(NamedTuple):
    """Step size and the state of its dual averaging (Nesterov 2009)."""

    log_step: Float[Array, ""]
    averaging: Float[Array, 5]


class Orders(NamedTuple):
    """What a block is to do.

    Parameters
    ----------
    momenta : array of shape (size, d)
        A standard normal momentum for each iteration.
    seeds : array of shape (size,)
        The seed of each iteration's trajectory.
    count : int
        Iterations, at most ``size``.
    adapt : bool
        Whether the step size adapts.
    target : float
        Acceptance that it aims at.
    depth : int
        Deepest tree.
    """

    momenta: Float[Array | np.ndarray, "size d"]
    seeds: UInt64[Array | np.ndarray, " size"]
    count: Array | np.ndarray
    adapt: Array | np.ndarray
    target: Array | np.ndarray
    depth: Array | np.ndarray


def block_function(density: Callable, transition: Callable) -> Callable:
    """A function that runs a block of iterations of one chain.

    Parameters
    ----------
    density : callable
        Log density and gradient at ``(position, prepared data)``.
    transition : callable
        Of ``(density, metric, point, momentum, seed, step size, depth)``.

    Returns
    -------
    callable
        Of ``(point, adaptation, orders, metric, prepared data)``; gives the point and adaptation
        that follow, and a row of every quantity for each iteration.
    """
    _, update = dual_averaging()

    def block(
        point: Point, adaptation: Adaptation, orders: Orders, metric: Metric, prepared: Any
    ) -> tuple[Point, Adaptation, dict[str, Array]]:
        size, dimension = orders.momenta.shape
        buffers = {
            "position": jnp.zeros((size, dimension)),
            "gradient": jnp.zeros((size, dimension)),
            "lp": jnp.zeros(size),
            "energy": jnp.zeros(size),
            "acceptance_rate": jnp.zeros(size),
            "n_steps": jnp.zeros(size, jnp.int64),
            "tree_depth": jnp.zeros(size, jnp.int64),
            "diverging": jnp.zeros(size, bool),
            "step_size": jnp.zeros(size),
        }

        def body(i: Array, loop: tuple) -> tuple:
            point, adaptation, buffers = loop
            new, report = transition(
                lambda x: density(x, prepared),
                metric,
                point,
                orders.momenta[i],
                orders.seeds[i],
                jnp.exp(adaptation.log_step),
                orders.depth,
            )
            averaging = jnp.stack(
                update(orders.target - report.acceptance, tuple(adaptation.averaging))
            )
            following = Adaptation(
                jnp.where(orders.adapt, averaging[0], adaptation.log_step),
                jnp.where(orders.adapt, averaging, adaptation.averaging),
            )
            row = {
                "position": new.x,
                "gradient": new.gradient,
                "lp": new.lp,
                "energy": report.energy,
                "acceptance_rate": report.acceptance,
                "n_steps": report.leapfrogs,
                "tree_depth": report.depth,
                "diverging": report.diverging,
                "step_size": jnp.exp(adaptation.log_step),
            }
            return new, following, {k: b.at[i].set(row[k]) for k, b in buffers.items()}

        return jax.lax.fori_loop(0, orders.count, body, (point, adaptation, buffers))

    return block
