"""Paths of limited-memory BFGS up the log density, recorded for what they tell of its shape.

Each turn of the loop takes one gradient, at the point that is tried; so what is compiled holds the
model once. The line search brackets and halves until both weak Wolfe conditions hold (Lewis and
Overton 2013), and takes values that are not finite for too far. The diagonal of the first guess at
the inverse Hessian follows Gilbert and Lemaréchal (1989), as in Pathfinder (Zhang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from bayes.inference.threads import side_by_side
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["Path", "climb", "compile_climb", "history"]

_LEAST_HISTORY, _MOST_HISTORY = 10, 30

_MOST, _LARGE_MOST, _NUMBERS = 400, 100, 10**6
_TRIES = 25
_DECREASE, _CURVATURE = 1e-4, 0.9
_GAIN, _ROUNDING = 1e-11, 1e-4
"""A path ends where the next step promises a gain in log density of less than the first, in a
valley that is not known yet promises are small; or no step is found that keeps the promise of less
than the second, which rounding errors can do."""
_CURVED = 1e-12


class Path(NamedTuple):
    """Where a path went.

    Parameters
    ----------
    positions, gradients : array of shape (n, d)
        Points that were accepted, the start first, and gradients of the log density there.
    densities : array of shape (n,)
        Log density there.
    diagonals : array of shape (n, d)
        Diagonal of the first guess at the inverse Hessian there.
    converged : bool
        Whether the path ended at a maximum.
    evaluations : int
        Gradients that it took.
    """

    positions: Float[np.ndarray, "n d"]
    densities: Float[np.ndarray, " n"]
    gradients: Float[np.ndarray, "n d"]
    diagonals: Float[np.ndarray, "n d"]
    converged: bool
    evaluations: int


class _State(NamedTuple):
    x: Array
    f: Array
    g: Array
    direction: Array
    slope: Array
    low: Array
    high: Array
    step: Array
    tries: Array
    differences: Array
    changes: Array
    curvatures: Array
    diagonal: Array
    count: Array
    evaluations: Array
    status: Array
    rows: tuple[Array, Array, Array, Array]


_GOING, _CONVERGED, _STALLED = 0, 1, 2


def history(dimension: int) -> int:
    """Steps that a guess at the inverse Hessian is made of."""
    return max(_LEAST_HISTORY, min(_MOST_HISTORY, dimension))


def longest_path(dimension: int) -> int:
    """Points that a path may have."""
    return max(_LARGE_MOST, min(_MOST, _NUMBERS // max(dimension, 1)))


def compile_climb(problem: Problem) -> Future[Callable]:
    """Begin to compile a path."""
    program = problem.program
    if "climb" in program.compiled:
        return program.compiled["climb"]
    split, d = program.gradient(problem.arrays), problem.size
    number, vector = (jax.ShapeDtypeStruct(s, np.float64) for s in ((), (d,)))
    function = _path_function(split.run, d, longest_path(d))
    return program.compile_ahead(
        "climb", function, vector, number, vector, vector, problem.prepared_shapes
    )


def climb(
    problem: Problem,
    starts: Float[np.ndarray, "m d"],
    densities: Float[np.ndarray, " m"],
    gradients: Float[np.ndarray, "m d"],
    scale: Float[np.ndarray, " d"] | None = None,
) -> list[Path]:
    """Climb from starts, side by side.

    Parameters
    ----------
    problem : Problem
        Model and data.
    starts, gradients : array of shape (m, d)
        Starts, and gradients of the log density there.
    densities : array of shape (m,)
        Log density there.
    scale : array of shape (d,), optional
        Scales of the coordinates, as far as they are known.

    Returns
    -------
    list of Path
    """
    run, prepared = compile_climb(problem).result(), problem.prepared
    diagonal = np.ones(problem.size) if scale is None else np.square(scale)

    def one(i: int) -> Path:
        with double_precision():
            found = run(starts[i], densities[i], gradients[i], diagonal, prepared)
            rows, count, status, evaluations = jax.tree.map(np.asarray, found)
        kept = int(count) + 1
        x, f, g, a = (v[:kept] for v in rows)
        return Path(x, -f, -g, a, int(status) == _CONVERGED, int(evaluations))

    return side_by_side(one, range(len(starts)))


def _path_function(density: Callable, d: int, most: int) -> Callable:
    """A path from a start; goes down minus the log density."""

    def descend(x: Array, prepared: Any) -> tuple[Array, Array]:
        value, gradient = density(x, prepared)
        return -value, -gradient

    pairs = history(d)

    def path(x: Array, lp: Array, slope: Array, diagonal: Array, prepared: Any) -> Any:
        f, g = -lp, -slope
        rows = (
            jnp.zeros((most + 1, d)).at[0].set(x),
            jnp.zeros(most + 1).at[0].set(f),
            jnp.zeros((most + 1, d)).at[0].set(g),
            jnp.zeros((most + 1, d)).at[0].set(diagonal),
        )
        direction = -diagonal * g
        zero, whole = jnp.zeros(()), jnp.zeros((), jnp.int64)
        state = _State(
            x, f, g, direction, direction @ g, zero, zero + jnp.inf,
            1.0 / jnp.maximum(jnp.linalg.norm(direction / jnp.sqrt(diagonal)), 1.0),
            whole, jnp.zeros((pairs, d)), jnp.zeros((pairs, d)), jnp.zeros(pairs),
            diagonal, whole, whole, whole, rows,
        )  # fmt: skip
        last = lax.while_loop(
            lambda s: (s.status == _GOING) & (s.count < most) & (s.evaluations < 2 * most),
            lambda s: _turn(s, descend, prepared),
            state,
        )
        return last.rows, last.count, last.status, last.evaluations

    return path


def _turn(s: _State, descend: Callable, prepared: Any) -> _State:
    """Try a point; accept it or narrow the bracket."""
    trial = s.x + s.step * s.direction
    f, g = descend(trial, prepared)
    fine = jnp.isfinite(f) & jnp.isfinite(g).all()
    g = jnp.where(fine, g, 0.0)
    # Near the maximum differences of the log density are rounding errors.
    slack = 1e-12 * (1.0 + jnp.abs(s.f))
    lower = fine & (f <= s.f + _DECREASE * s.step * s.slope + slack)
    flat = g @ s.direction >= _CURVATURE * s.slope
    spent = s.tries + 1 >= _TRIES
    accept = lower & (flat | spent)
    high = jnp.where(lower, s.high, s.step)
    low = jnp.where(lower, s.step, s.low)
    narrowed = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2.0 * s.step)
    tried = s._replace(
        low=low,
        high=high,
        step=narrowed,
        tries=s.tries + 1,
        evaluations=s.evaluations + 1,
        status=jnp.where(
            spent & ~lower, jnp.where(-0.5 * s.slope < _ROUNDING, _CONVERGED, _STALLED), s.status
        ),
    )
    return lax.cond(accept, lambda: _accepted(tried, s, trial, f, g), lambda: tried)


def _accepted(tried: _State, s: _State, x: Array, f: Array, g: Array) -> _State:
    difference, change = x - s.x, g - s.g
    curvature = difference @ change
    curved = curvature > _CURVED * jnp.linalg.norm(difference) * jnp.linalg.norm(change)
    diagonal = jnp.where(
        curved, _new_diagonal(s.diagonal, difference, change, curvature), s.diagonal
    )

    def pushed(rows: Array, row: Array) -> Array:
        return jnp.where(curved, jnp.concatenate([rows[1:], row[None]]), rows)

    differences, changes = pushed(s.differences, difference), pushed(s.changes, change)
    curvatures = pushed(s.curvatures, 1.0 / jnp.where(curved, curvature, 1.0))
    direction = -_two_loops(diagonal, differences, changes, curvatures, g)
    slope = direction @ g
    # Half the slope is the gain that the quadratic model promises.
    converged = (-0.5 * slope < _GAIN) & (s.f - f < 1e3 * _GAIN)
    count = s.count + 1
    rows = tuple(
        table.at[count].set(row) for table, row in zip(s.rows, (x, f, g, diagonal), strict=True)
    )
    zero = jnp.zeros(())
    return tried._replace(
        x=x,
        f=f,
        g=g,
        direction=direction,
        slope=slope,
        low=zero,
        high=zero + jnp.inf,
        step=zero + 1.0,
        tries=jnp.zeros_like(s.tries),
        differences=differences,
        changes=changes,
        curvatures=curvatures,
        diagonal=diagonal,
        count=count,
        status=jnp.where(converged, _CONVERGED, s.status),
        rows=rows,
    )


def _new_diagonal(a: Array, s: Array, y: Array, sy: Array) -> Array:
    """Gilbert and Lemaréchal's update of the diagonal inverse Hessian (Pathfinder, algorithm 3)."""
    yay, sas = (a * y * y).sum(), (s * s / a).sum()
    inverse = yay / (sy * a) + y * y / sy - yay * s * s / (sy * sas * a * a)
    new = 1.0 / inverse
    return jnp.where(jnp.isfinite(new) & (new > 0), new, a)


def _two_loops(
    diagonal: Array, differences: Array, changes: Array, inverse: Array, g: Array
) -> Array:
    """Product of the inverse Hessian with a gradient (Nocedal and Wright, algorithm 7.4).

    Entries that are not there have curvature 0 and take no part.
    """
    pairs = (differences, changes, inverse)

    def down(g: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        difference, change, inverse = pair
        part = inverse * (difference @ g)
        return g - part * change, part

    g, parts = lax.scan(down, g, pairs, reverse=True)

    def up(r: Array, pair: tuple[Any, Array]) -> tuple[Array, None]:
        (difference, change, inverse), part = pair
        return r + difference * (part - inverse * (change @ r)), None

    return lax.scan(up, diagonal * g, (pairs, parts))[0]
