"""A function of position and data, split into what follows from the data alone and the rest.

A sampler evaluates the gradient of the log density hundreds of thousands of times at the same data.
What does not depend on the position (normalising constants, distances between inputs, products of
covariates) is computed once, before the loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal

__all__ = ["Split", "split_by_dependence"]

_CALLS = ("jit", "pjit", "closed_call")

_CHEAP = frozenset(
    ("broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims", "convert_element_type", "rev")
)
"""Cheaper to repeat, fused into what uses it, than to keep in memory and read back."""


class Split(NamedTuple):
    """A function in two parts.

    Parameters
    ----------
    prepare : callable
        From the data to a list of arrays.
    run : callable
        From the position and that list to the function's result.
    """

    prepare: Callable[[Any], list]
    run: Callable[[Any, list], Any]


class _Step(NamedTuple):
    """One primitive operation; values have numbers, so that inlined calls do not clash."""

    equation: Any
    inputs: tuple
    outputs: tuple[int, ...]


def split_by_dependence(function: Callable, position: Any, data: Any) -> Split:
    """Split a function of position and data.

    Parameters
    ----------
    function : callable
        Of ``(position, data)``, traceable.
    position : array or shape
        A position, for its shape and type.
    data : pytree
        Data, for their shapes and types.

    Returns
    -------
    Split
        ``run(position, prepare(data))`` does the operations of ``function(position, data)``.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(position, data)
    structure = jax.tree.structure(shape)
    steps, inputs, outputs, constants = _flatten(closed.jaxpr, closed.consts)
    count = len(jax.tree.leaves(position))
    steps = _used(steps, outputs)
    moving = set(inputs[:count])
    late: list[_Step] = []
    early: list[_Step] = []
    for step in steps:
        depends = any(not isinstance(v, Literal) and v in moving for v in step.inputs)
        (late if depends or step.equation.effects else early).append(step)
        if late and late[-1] is step:
            moving.update(step.outputs)
    late = _repeat_cheap(early, late, outputs)
    own = {v for step in late for v in step.outputs} | set(inputs[:count])
    needed = [v for step in late for v in step.inputs] + list(outputs)
    kept = list(dict.fromkeys(v for v in needed if not isinstance(v, Literal) and v not in own))
    early = _used(early, kept)

    def prepare(values: Any) -> list:
        known = {**constants, **dict(zip(inputs[count:], jax.tree.leaves(values), strict=True))}
        _evaluate(early, known)
        return [known[v] for v in kept]

    def run(place: Any, prepared: list) -> Any:
        known = dict(zip(kept, prepared, strict=True))
        known.update(zip(inputs[:count], jax.tree.leaves(place), strict=True))
        _evaluate(late, known)
        found = [v.val if isinstance(v, Literal) else known[v] for v in outputs]
        return jax.tree.unflatten(structure, found)

    return Split(prepare, run)


def _flatten(
    jaxpr: Jaxpr, consts: Iterable[Any]
) -> tuple[list[_Step], list[int], list, dict[int, Any]]:
    """The primitive operations in order, with calls of jitted functions inlined."""
    steps: list[_Step] = []
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
            steps.append(_Step(equation, given, made))
        return [read(names, a) for a in inner.outvars]

    inputs = [next(numbers) for _ in jaxpr.invars]
    outputs = walk(jaxpr, consts, inputs)
    return steps, inputs, outputs, constants


def _used(steps: list[_Step], outputs: Iterable[Any]) -> list[_Step]:
    """The steps that the outputs need."""
    wanted = {v for v in outputs if not isinstance(v, Literal)}
    kept = []
    for step in reversed(steps):
        if step.equation.effects or wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(v for v in step.inputs if not isinstance(v, Literal))
    return kept[::-1]


def _repeat_cheap(early: list[_Step], late: list[_Step], outputs: list) -> list[_Step]:
    """The late steps, with those cheap early ones before them whose results they read."""
    source = {v: step for step in early for v in step.outputs}
    repeated: dict[int, _Step] = {}
    queue = [v for step in late for v in step.inputs] + list(outputs)
    while queue:
        value = queue.pop()
        step = None if isinstance(value, Literal) else source.get(value)
        if step is None or step.equation.primitive.name not in _CHEAP or id(step) in repeated:
            continue
        repeated[id(step)] = step
        queue.extend(step.inputs)
    return [step for step in early if id(step) in repeated] + late


def _evaluate(steps: list[_Step], known: dict[int, Any]) -> None:
    """Carry out steps, adding their results to the known values."""
    for step in steps:
        equation = step.equation
        given = [_constant(v) if isinstance(v, Literal) else known[v] for v in step.inputs]
        params = equation.primitive.get_bind_params(equation.params)
        # Before JAX 0.9 functions that are parameters came apart from the rest.
        functions, params = params if isinstance(params, tuple) else ((), params)
        manager = getattr(getattr(equation, "ctx", None), "manager", contextlib.nullcontext())
        with manager:
            found = equation.primitive.bind(*functions, *given, **params)
        many = equation.primitive.multiple_results
        known.update(zip(step.outputs, found if many else [found], strict=True))


def _constant(literal: Literal) -> Any:
    """The literal's value, of its own type: a Python number would take another one's."""
    aval: Any = literal.aval
    return np.asarray(literal.val, aval.dtype)
