"""One transition of NUTS and of HMC, as pure functions.

Positions stay in the unconstrained space; momenta are standard normal, and the metric's factor F
maps them to displacements, so that the dynamics are those of mass (F F')^-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from bayes.inference.metric import Metric, pull, push
from bayes.inference.randomness import random_bits, uniform

__all__ = ["Phase", "Point", "Transition", "hmc_transition", "leapfrog", "nuts_transition"]

_MAX_ENERGY_CHANGE = 1000.0


class Point(NamedTuple):
    """A chain's place: position, log density and its gradient."""

    x: Float[Array, " d"]
    lp: Float[Array, ""]
    gradient: Float[Array, " d"]


class Transition(NamedTuple):
    """What a transition gives besides the new point."""

    acceptance: Float[Array, ""]
    energy: Float[Array, ""]
    leapfrogs: Array
    depth: Array
    diverging: Array


class Phase(NamedTuple):
    """A point of phase space: position, whitened momentum, whitened gradient."""

    x: Float[Array, " d"]
    r: Float[Array, " d"]
    h: Float[Array, " d"]


def leapfrog(
    density: Callable, metric: Metric, phase: Phase, step: Array | float
) -> tuple[Phase, Point]:
    """One step of the leapfrog integrator (Neal 2011, eqs 5.18 to 5.20)."""
    half = phase.r + 0.5 * step * phase.h
    x = phase.x + step * push(metric, half)
    lp, gradient = density(x)
    h = pull(metric, gradient)
    return Phase(x, half + 0.5 * step * h, h), Point(x, lp, gradient)


def _energy(lp: Array, r: Array) -> Array:
    return 0.5 * jnp.dot(r, r) - lp


def _select(condition: Array, new: Point, old: Point) -> Point:
    return Point(*(jnp.where(condition, a, b) for a, b in zip(new, old, strict=True)))


def _turns(one: Array, other: Array, total: Array) -> Array:
    """Whether a stretch of trajectory bends back (Betancourt 2017, A.4.2).

    Half of each end's momentum is taken off the sum: the sum then stands for the way between the
    ends, and the criterion does not depend on how finely the trajectory is cut.
    """
    way = total - 0.5 * (one + other)
    return (jnp.dot(one, way) <= 0) | (jnp.dot(other, way) <= 0)


def _turns_at_joint(
    first: Array, before: Array, after: Array, last: Array, left: Array, right: Array
) -> Array:
    """Whether either half of a stretch bends back on its way to the next state of the other half.

    A stretch of a whole period ends where it began, and two halves of the same length each look
    straight: only the joint shows it. Source: Stan's reference manual, 2.21 and later.
    """
    return _turns(first, after, left + after) | _turns(before, last, before + right)


class _Subtree(NamedTuple):
    """A doubling under way: the moving end, the state chosen so far, and what turning needs.

    ``momenta`` and ``sums`` hold, for each level, the first momentum of the balanced subtree that
    is open there and the sum of momenta up to it; ``befores`` holds the momentum before it.
    """

    end: Phase
    chosen: Point
    energy: Array
    log_weight: Array
    total: Array
    leaf: Array
    acceptance: Array
    turning: Array
    diverging: Array
    momenta: Array
    sums: Array
    befores: Array


class _Tree(NamedTuple):
    """A trajectory: both ends (backward, forward) and the state chosen so far."""

    ends: Phase
    chosen: Point
    energy: Array
    log_weight: Array
    total: Array
    depth: Array
    leapfrogs: Array
    acceptance: Array
    turning: Array
    diverging: Array
    momenta: Array
    sums: Array
    befores: Array


def nuts_transition(
    density: Callable,
    metric: Metric,
    point: Point,
    momentum: Float[Array, " d"],
    seed: Array,
    step: Array | float,
    depth: Array,
    max_depth: int,
) -> tuple[Point, Transition]:
    """The no-U-turn sampler with multinomial weights and biased progressive sampling.

    Source: Hoffman and Gelman (2014), The no-U-turn sampler; Betancourt (2017), A conceptual
    introduction to Hamiltonian Monte Carlo, A.3. The recursion over subtrees is turned into a loop
    with one stored momentum a level, as in Phan, Pradhan and Jankowiak (2019) and Lao and Dillon
    (2019), Unrolled implementation of no-U-turn sampler.

    Parameters
    ----------
    density : callable
        Log density and gradient at a position.
    metric : Metric
        Metric.
    point : Point
        Where the chain is.
    momentum : array of shape (d,)
        Standard normal momentum.
    seed : uint64
        Seed of the trajectory's choices.
    step : float
        Leapfrog step.
    depth : int
        Deepest tree now; at most ``max_depth``.
    max_depth : int
        Deepest tree ever, which sets the memory.

    Returns
    -------
    Point, Transition
    """
    start = _energy(point.lp, momentum)
    phase = Phase(point.x, momentum, pull(metric, point.gradient))
    no = jnp.zeros((), bool)
    none = jnp.zeros((), jnp.int64)
    nothing = jnp.zeros(())
    level = jnp.zeros((max_depth, point.x.shape[0]))
    tree = _Tree(
        ends=Phase(*(jnp.stack([v, v]) for v in phase)),
        chosen=point,
        energy=start,
        log_weight=nothing,
        total=momentum,
        depth=none,
        leapfrogs=none,
        acceptance=nothing,
        turning=no,
        diverging=no,
        momenta=level,
        sums=level,
        befores=level,
    )

    def goes_on(tree: _Tree) -> Array:
        return (tree.depth < depth) & ~tree.turning & ~tree.diverging

    def double(tree: _Tree) -> _Tree:
        # Odd counters belong to doublings, even ones to leaves. The lowest bit, which the uniform
        # number does not use, gives the direction.
        bits = random_bits(seed, 2 * tree.depth + 1)
        side = (bits & np.uint64(1)).astype(jnp.int64)
        signed = step * (2.0 * side - 1.0)
        leaves = jnp.left_shift(jnp.ones((), jnp.int64), tree.depth)
        sub = _Subtree(
            end=Phase(*(v[side] for v in tree.ends)),
            chosen=tree.chosen,
            energy=tree.energy,
            log_weight=jnp.full((), -jnp.inf),
            total=jnp.zeros_like(momentum),
            leaf=none,
            acceptance=tree.acceptance,
            turning=no,
            diverging=no,
            momenta=tree.momenta,
            sums=tree.sums,
            befores=tree.befores,
        )
        sub = lax.while_loop(
            lambda s: (s.leaf < leaves) & ~s.turning & ~s.diverging,
            lambda s: _add_leaf(density, metric, s, signed, start, seed, tree.leapfrogs),
            sub,
        )
        whole = ~sub.turning & ~sub.diverging
        accept = whole & (uniform(bits) < jnp.exp(sub.log_weight - tree.log_weight))
        ends = Phase(*(v.at[side].set(e) for v, e in zip(tree.ends, sub.end, strict=True)))
        total = tree.total + sub.total
        far, near = tree.ends.r[1 - side], tree.ends.r[side]
        joint = _turns_at_joint(far, near, sub.momenta[0], sub.end.r, tree.total, sub.total)
        return _Tree(
            ends=ends,
            chosen=_select(accept, sub.chosen, tree.chosen),
            energy=jnp.where(accept, sub.energy, tree.energy),
            log_weight=jnp.logaddexp(tree.log_weight, sub.log_weight),
            total=total,
            depth=tree.depth + 1,
            leapfrogs=tree.leapfrogs + sub.leaf,
            acceptance=sub.acceptance,
            turning=sub.turning | joint | _turns(far, sub.end.r, total),
            diverging=sub.diverging,
            momenta=sub.momenta,
            sums=sub.sums,
            befores=sub.befores,
        )

    tree = lax.while_loop(goes_on, double, tree)
    return tree.chosen, Transition(
        tree.acceptance / tree.leapfrogs, tree.energy, tree.leapfrogs, tree.depth, tree.diverging
    )


def _add_leaf(
    density: Callable,
    metric: Metric,
    sub: _Subtree,
    step: Array | float,
    start: Array,
    seed: Array,
    before: Array,
) -> _Subtree:
    """One leapfrog step further, one more state to choose from, and the turning of what it ends."""
    end, point = leapfrog(density, metric, sub.end, step)
    energy = _energy(point.lp, end.r)
    change = start - energy
    change = jnp.where(jnp.isnan(change), -jnp.inf, change)
    log_weight = jnp.logaddexp(sub.log_weight, change)
    leaf = sub.leaf
    draw = uniform(random_bits(seed, 2 * (before + leaf) + 2))
    take = draw < jnp.exp(change - log_weight)
    total = sub.total + end.r
    # A leaf of even number opens subtrees; one of odd number closes as many as it has trailing
    # ones in binary, each at a level below the number of ones before it.
    top = lax.population_count(leaf >> 1)
    opens = (leaf & 1) == 0
    closed = lax.population_count(leaf & ~(leaf + 1))
    spare = sub.momenta.shape[0] - 1
    place = jnp.where(opens, top, spare)
    stored = sub.momenta.at[place].set(end.r)
    sums = sub.sums.at[place].set(total)
    befores = sub.befores.at[place].set(sub.end.r)

    def check(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        at, _ = carry
        # The second half of what ends here was opened one level up, unless it is this leaf alone.
        first, before, after = stored[at], befores[at + 1], stored[at + 1]
        left = sums[at + 1] - after - sums[at] + first
        right = total - sums[at + 1] + after
        joint = _turns_at_joint(first, before, after, end.r, left, right)
        return at - 1, _turns(first, end.r, total - sums[at] + first) | ((at < top) & joint)

    none = jnp.full((), -1, jnp.int64)
    _, turning = lax.while_loop(
        lambda c: (c[0] > top - closed) & ~c[1],
        check,
        (jnp.where(opens, none, top), jnp.zeros((), bool)),
    )
    return _Subtree(
        end=end,
        chosen=_select(take, point, sub.chosen),
        energy=jnp.where(take, energy, sub.energy),
        log_weight=log_weight,
        total=total,
        leaf=leaf + 1,
        acceptance=sub.acceptance + jnp.minimum(1.0, jnp.exp(change)),
        turning=turning,
        diverging=change < -_MAX_ENERGY_CHANGE,
        momenta=stored,
        sums=sums,
        befores=befores,
    )


def hmc_transition(
    density: Callable,
    metric: Metric,
    point: Point,
    momentum: Float[Array, " d"],
    seed: Array,
    step: Array | float,
    steps: Array,
) -> tuple[Point, Transition]:
    """Hamiltonian Monte Carlo with a given number of leapfrog steps.

    Source: Neal (2011), MCMC using Hamiltonian dynamics.
    """
    phase = Phase(point.x, momentum, pull(metric, point.gradient))
    _, end, place = lax.while_loop(
        lambda c: c[0] < steps,
        lambda c: (c[0] + 1, *leapfrog(density, metric, c[1], step)),
        (jnp.zeros_like(steps), phase, point),
    )
    energy = _energy(point.lp, momentum)
    change = _energy(place.lp, end.r) - energy
    change = jnp.where(jnp.isnan(change), jnp.inf, change)
    acceptance = jnp.minimum(1.0, jnp.exp(-change))
    accept = uniform(random_bits(seed, jnp.ones((), jnp.int64))) < acceptance
    kept_energy = jnp.where(accept, energy + change, energy)
    return _select(accept, place, point), Transition(
        acceptance, kept_energy, steps, jnp.zeros_like(steps), change > _MAX_ENERGY_CHANGE
    )
