"""Log density, gradient and Hessian products at many positions, batched and in threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bayes.inference.threads import side_by_side
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.steps import flatten, following

__all__ = [
    "compile_densities",
    "compile_gradients",
    "compile_hessian_products",
    "densities_at",
    "evaluations_at_once",
    "gradients_at",
    "hessian_products",
]

_BATCH, _SMALL_BATCH = 512, 32
_NUMBERS = 2 * 10**6
"""Numbers that the largest intermediate of a batch may have: 16 MB, of which there are some."""


def largest_intermediate(problem: Problem) -> int:
    """Numbers in the largest array that follows from a position, not from the data alone."""

    def find() -> int:
        position = jax.ShapeDtypeStruct((problem.size,), np.float64)
        with double_precision():
            closed = jax.make_jaxpr(problem.program.log_density)(position, problem.arrays)
        steps, inputs, _, _ = flatten(closed.jaxpr, closed.consts)
        late = following(steps, inputs[:1])
        made = (math.prod(v.aval.shape) for step in late for v in step.equation.outvars)
        return max(problem.size, *made)

    return problem.program.once("largest intermediate", find)


def evaluations_at_once(problem: Problem, most: int = _BATCH) -> int:
    """Positions of a batch, so that memory is bounded."""
    return int(np.clip(_NUMBERS // largest_intermediate(problem), 1, most))


def compile_densities(problem: Problem) -> Future[Callable]:
    """Begin to compile the log density at a batch of positions."""
    program = problem.program
    if "densities" in program.compiled:
        return program.compiled["densities"]
    split = program.gradient(problem.arrays)
    shape = (evaluations_at_once(problem), problem.size)
    # What only the gradient needs is not computed, and both share what follows from the data alone.
    run = jax.vmap(lambda x, prepared: split.run(x, prepared)[0], in_axes=(0, None))
    return program.compile_ahead(
        "densities", run, jax.ShapeDtypeStruct(shape, np.float64), problem.prepared_shapes
    )


def compile_gradients(problem: Problem) -> Future[Callable]:
    """Begin to compile log density and gradient at a batch of positions."""
    program = problem.program
    if "gradients" in program.compiled:
        return program.compiled["gradients"]
    split = program.gradient(problem.arrays)
    shape = (evaluations_at_once(problem, _SMALL_BATCH), problem.size)
    run = jax.vmap(split.run, in_axes=(0, None))
    return program.compile_ahead(
        "gradients", run, jax.ShapeDtypeStruct(shape, np.float64), problem.prepared_shapes
    )


def compile_hessian_products(problem: Problem) -> Future[Callable]:
    """Begin to compile products of the Hessian with vectors at a batch of positions."""
    program = problem.program
    if "hessian products" in program.compiled:
        return program.compiled["hessian products"]

    def product(x: Any, v: Any, arrays: Any) -> Any:
        return jax.jvp(lambda y: jax.grad(program.log_density)(y, arrays), (x,), (v,))[1]

    size = evaluations_at_once(problem, _SMALL_BATCH)
    shape = jax.ShapeDtypeStruct((size, problem.size), np.float64)
    mapped = jax.vmap(product, in_axes=(0, 0, None))
    return program.compile_ahead("hessian products", mapped, shape, shape, problem.array_shapes)


def densities_at(problem: Problem, positions: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Log density at positions.

    Parameters
    ----------
    problem : Problem
        Model and data.
    positions : array of shape (n, d)
        Flat unconstrained positions.

    Returns
    -------
    array of shape (n,)
    """
    run, prepared = compile_densities(problem).result(), problem.prepared
    size = evaluations_at_once(problem)
    return _in_batches(lambda part: run(part, prepared), size, positions)


def gradients_at(
    problem: Problem, positions: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """Log density and its gradient at positions.

    Parameters
    ----------
    problem : Problem
        Model and data.
    positions : array of shape (n, d)
        Flat unconstrained positions.

    Returns
    -------
    densities : array of shape (n,)
    gradients : array of shape (n, d)
    """
    run, prepared = compile_gradients(problem).result(), problem.prepared
    size = evaluations_at_once(problem, _SMALL_BATCH)
    return _in_batches(lambda part: run(part, prepared), size, positions)


def hessian_products(
    problem: Problem, positions: Float[np.ndarray, "n d"], vectors: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n d"]:
    """Products of the log density's Hessian with vectors, each at a position of its own.

    Parameters
    ----------
    problem : Problem
        Model and data.
    positions, vectors : array of shape (n, d)
        Where, and with what.

    Returns
    -------
    array of shape (n, d)
    """
    run, arrays = compile_hessian_products(problem).result(), problem.arrays
    size = evaluations_at_once(problem, _SMALL_BATCH)
    return _in_batches(lambda x, v: run(x, v, arrays), size, positions, vectors)


def _in_batches(run: Callable, size: int, *rows: np.ndarray) -> Any:
    """Run a compiled function of a batch of rows at all rows, some batches side by side."""
    count = len(rows[0])
    whole = -(-count // size) * size
    padded = [np.resize(v, (whole, *v.shape[1:])) if whole != count else v for v in rows]

    def part(begin: int) -> Any:
        with double_precision():
            return jax.tree.map(np.asarray, run(*(v[begin : begin + size] for v in padded)))

    begins = range(0, whole, size)
    found = side_by_side(part, begins) if len(begins) > 1 else [part(0)]
    return jax.tree.map(lambda *v: np.concatenate(v)[:count], *found)
