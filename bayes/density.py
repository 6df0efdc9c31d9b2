"""A function of position and data, split into what follows from the data alone and the rest.

A sampler evaluates the gradient of the log density hundreds of thousands of times at the same data.
What does not depend on the position (normalising constants, distances between inputs, products of
covariates) is computed once, before the loop, and narrow matrices of covariates are laid out by
columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from bayes.rewriting import by_columns, one_by_one
from bayes.steps import Step, evaluate, flatten, used

__all__ = ["Split", "split_by_dependence"]

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
    steps, inputs, outputs, constants = flatten(closed.jaxpr, closed.consts)
    count = len(jax.tree.leaves(position))
    steps = used(steps, outputs)
    moving = set(inputs[:count])
    late: list[Step] = []
    early: list[Step] = []
    for step in steps:
        depends = any(not isinstance(v, Literal) and v in moving for v in step.inputs)
        (late if depends or step.equation.effects else early).append(step)
        if late and late[-1] is step:
            moving.update(step.outputs)
    late = _repeat_cheap(early, late, outputs)
    own = {v for step in late for v in step.outputs} | set(inputs[:count])
    needed = [v for step in late for v in step.inputs] + list(outputs)
    kept = list(dict.fromkeys(v for v in needed if not isinstance(v, Literal) and v not in own))
    early = used(early, kept)
    late, flipped = by_columns(one_by_one(late), set(kept))
    read = {v for step in late for v in step.inputs if not isinstance(v, Literal)}
    kept = [v for v in kept if v in read or v in outputs]

    def prepare(values: Any) -> list:
        known = {**constants, **dict(zip(inputs[count:], jax.tree.leaves(values), strict=True))}
        evaluate(early, known)
        return [known[v] for v in kept] + [jnp.transpose(known[v]) for v in flipped]

    def run(place: Any, prepared: list) -> Any:
        known: dict[Any, Any] = dict(zip([*kept, *flipped.values()], prepared, strict=True))
        known.update(zip(inputs[:count], jax.tree.leaves(place), strict=True))
        evaluate(late, known)
        found = [v.val if isinstance(v, Literal) else known[v] for v in outputs]
        return jax.tree.unflatten(structure, found)

    return Split(prepare, run)


def _repeat_cheap(early: list[Step], late: list[Step], outputs: list) -> list[Step]:
    """The late steps, with those cheap early ones before them whose results they read."""
    source = {v: step for step in early for v in step.outputs}
    repeated: dict[int, Step] = {}
    queue = [v for step in late for v in step.inputs] + list(outputs)
    while queue:
        value = queue.pop()
        step = None if isinstance(value, Literal) else source.get(value)
        if step is None or step.equation.primitive.name not in _CHEAP or id(step) in repeated:
            continue
        repeated[id(step)] = step
        queue.extend(step.inputs)
    return [step for step in early if id(step) in repeated] + late
