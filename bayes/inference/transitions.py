"""One transition of NUTS and of HMC in whitened coordinates, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.infer.hmc_util import build_tree, euclidean_kinetic_energy, velocity_verlet

__all__ = ["Point", "Transition", "hmc_transition", "nuts_transition"]

_MAX_ENERGY_CHANGE = 1000.0


class Point(NamedTuple):
    """A chain's place: whitened position, potential energy and its gradient."""

    z: Float[Array, " d"]
    potential: Float[Array, ""]
    gradient: Float[Array, " d"]


class Transition(NamedTuple):
    """What a transition gives besides the new point."""

    acceptance: Float[Array, ""]
    energy: Float[Array, ""]
    leapfrogs: Array
    depth: Array
    diverging: Array


def nuts_transition(
    potential: Callable, key: Array, point: Point, step_size: Array, depth: Array, max_depth: int
) -> tuple[Point, Transition]:
    """The no-U-turn sampler with multinomial weights, on NumPyro's iterative tree.

    Source: Hoffman and Gelman (2014); Betancourt (2017), A.3; Phan, Pradhan and Jankowiak (2019).

    Parameters
    ----------
    potential : callable
        Negative log density of whitened coordinates.
    key : key
        Random key.
    point : Point
        Where the chain is.
    step_size : float
        Leapfrog step.
    depth : int
        Deepest tree now; at most ``max_depth``.
    max_depth : int
        Deepest tree ever, which sets the memory.

    Returns
    -------
    Point, Transition
    """
    momentum_key, tree_key = jax.random.split(key)
    mass = jnp.ones_like(point.z)
    momentum = jax.random.normal(momentum_key, point.z.shape, point.z.dtype)
    start, update = velocity_verlet(potential, euclidean_kinetic_energy)
    state = start(point.z, momentum, point.potential, point.gradient)
    tree = build_tree(
        update,
        euclidean_kinetic_energy,
        state,
        mass,
        step_size,
        tree_key,
        max_delta_energy=_MAX_ENERGY_CHANGE,
        max_tree_depth=cast("int", (depth, max_depth)),  # a pair is documented, an int annotated
    )
    new = Point(tree.z_proposal, tree.z_proposal_pe, tree.z_proposal_grad)
    acceptance = tree.sum_accept_probs / tree.num_proposals
    return new, Transition(
        acceptance, tree.z_proposal_energy, tree.num_proposals, tree.depth, tree.diverging
    )


def hmc_transition(
    potential: Callable, key: Array, point: Point, step_size: Array, steps: Array
) -> tuple[Point, Transition]:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps.

    Source: Neal (2011), MCMC using Hamiltonian dynamics.
    """
    momentum_key, accept_key = jax.random.split(key)
    momentum = jax.random.normal(momentum_key, point.z.shape, point.z.dtype)
    start, update = velocity_verlet(potential, euclidean_kinetic_energy)
    mass = jnp.ones_like(point.z)
    state = start(point.z, momentum, point.potential, point.gradient)
    end = jax.lax.fori_loop(0, steps, lambda _, s: update(step_size, mass, s), state)
    energy = point.potential + euclidean_kinetic_energy(mass, momentum)
    change = end.potential_energy + euclidean_kinetic_energy(mass, end.r) - energy
    change = jnp.where(jnp.isnan(change), jnp.inf, change)
    acceptance = jnp.minimum(1.0, jnp.exp(-change))
    accept = jax.random.uniform(accept_key) < acceptance
    proposal = Point(end.z, end.potential_energy, end.z_grad)
    new = jax.tree.map(lambda a, b: jnp.where(accept, a, b), proposal, point)
    kept_energy = jnp.where(accept, energy + change, energy)
    return new, Transition(
        acceptance, kept_energy, steps, jnp.zeros_like(steps), change > _MAX_ENERGY_CHANGE
    )
