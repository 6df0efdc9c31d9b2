"""Primitive operations of a traced function, one after another."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array

__all__ = ["Step", "evaluate", "flatten", "following", "used"]

_CALLS = ("jit", "pjit", "closed_call")


class Step(NamedTuple):
    """One primitive operation.

    Parameters
    ----------
    equation : JaxprEqn
        The operation.
    inputs, outputs : tuple
        Literals and numbers of values, so that inlined calls do not clash.
    axis : int, optional
        Of a scatter, the axis of its updates along which they are made one after another.
    """

    equation: Any
    inputs: tuple
    outputs: tuple[int, ...]
    axis: int | None = None


def flatten(
    jaxpr: Jaxpr, consts: Iterable[Any]
) -> tuple[list[Step], list[int], list, dict[int, Any]]:
    """The primitive operations in order, with calls of jitted functions inlined."""
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    numbers = iter(range(2**62))

    def read(names: dict, atom: Any) -> Any:
        return atom if isinstance(atom, Literal) else names[atom]

    def walk(inner: Jaxpr, values: Iterable[Any], arguments: Iterable[Any]) -> list:
        names: dict[Any, Any] = dict(zip(inner.invars, arguments, strict=True))
        for variable, value in zip(inner.constvars, values, strict=True):
            names[variable] = next(numbers)
            constants[names[variable]] = value
        for equation in inner.eqns:
            given = tuple(read(names, a) for a in equation.invars)
            called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            if equation.primitive.name in _CALLS and called is not None:
                found = walk(called.jaxpr, called.consts, given)
                names.update(zip(equation.outvars, found, strict=True))
                continue
            made = tuple(next(numbers) for _ in equation.outvars)
            names.update(zip(equation.outvars, made, strict=True))
            steps.append(Step(equation, given, made))
        return [read(names, a) for a in inner.outvars]

    inputs = [next(numbers) for _ in jaxpr.invars]
    outputs = walk(jaxpr, consts, inputs)
    return steps, inputs, outputs, constants


def used(steps: list[Step], outputs: Iterable[Any]) -> list[Step]:
    """The steps that the outputs need."""
    wanted = {v for v in outputs if not isinstance(v, Literal)}
    kept = []
    for step in reversed(steps):
        if step.equation.effects or wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(v for v in step.inputs if not isinstance(v, Literal))
    return kept[::-1]


def following(steps: list[Step], inputs: Iterable[int]) -> list[Step]:
    """The steps that depend on some inputs."""
    moving, found = set(inputs), []
    for step in steps:
        if any(not isinstance(v, Literal) and v in moving for v in step.inputs):
            moving.update(step.outputs)
            found.append(step)
    return found


def evaluate(steps: list[Step], known: dict[Any, Any]) -> None:
    """Carry out steps, adding their results to the known values."""
    for step in steps:
        equation = step.equation
        given = [_constant(v) if isinstance(v, Literal) else known[v] for v in step.inputs]
        params = equation.primitive.get_bind_params(equation.params)
        # Before JAX 0.9 functions that are parameters came apart from the rest.
        functions, params = params if isinstance(params, tuple) else ((), params)
        manager = getattr(getattr(equation, "ctx", None), "manager", contextlib.nullcontext())
        with manager:
            bind = functools.partial(equation.primitive.bind, *functions, **params)
            found = bind(*given) if step.axis is None else _in_turn(bind, given, step.axis)
        many = equation.primitive.multiple_results
        known.update(zip(step.outputs, found if many else [found], strict=True))


def _in_turn(scatter: Callable, given: list, axis: int) -> Any:
    """Scatter one update after another."""
    target, places, updates = map(jnp.asarray, given)

    def add(i: Array, result: Array) -> Array:
        place = lax.dynamic_slice_in_dim(places, i, 1)
        return scatter(result, place, lax.dynamic_slice_in_dim(updates, i, 1, axis))

    return lax.fori_loop(0, updates.shape[axis], add, target)


def _constant(literal: Literal) -> Any:
    """The literal's value, of its own type: a Python number would take another one's."""
    aval: Any = literal.aval
    return np.asarray(literal.val, aval.dtype)
