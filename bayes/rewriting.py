"""Steps rewritten into what XLA runs faster on a CPU."""

from __future__ import annotations

from jax.extend.core import Literal

from bayes.steps import Step

__all__ = ["by_columns", "one_by_one"]

_NARROW, _TALL = 64, 4
"""Columns at most, and rows at least for each, of a matrix whose products with vectors take up to
four times as long where it lies in memory by rows."""

_FEW_UPDATES = 4096
"""A scatter has so many updates at most where it is taken apart."""

_CALLED = frozenset(("cholesky", "triangular_solve", "eigh", "lu", "qr", "svd", "sort", "fft"))
"""Operations that are calls of their own in any case."""


def by_columns(steps: list[Step], fixed: set[int]) -> tuple[list[Step], dict[int, tuple[str, int]]]:
    """Products of vectors with fixed narrow matrices, as products with the matrices transposed.

    Also, from the number of such a matrix to the name of the transposed one.
    """
    flipped: dict[int, tuple[str, int]] = {}
    found = []
    for step in steps:
        if step.equation.primitive.name == "dot_general":
            for place, value in enumerate(step.inputs):
                if not isinstance(value, Literal) and value in fixed:
                    step = _transposed(step, place, flipped)
        found.append(step)
    return found, flipped


def _transposed(step: Step, place: int, flipped: dict[int, tuple[str, int]]) -> Step:
    """The product with one factor transposed where that pays."""
    contracted, batched = step.equation.params["dimension_numbers"]
    shape, other = (step.equation.invars[i].aval.shape for i in (place, 1 - place))
    if len(shape) != 2 or len(other) != 1 or batched[place] or len(contracted[place]) != 1:
        return step
    if not (shape[1] <= _NARROW and shape[0] >= _TALL * shape[1]):
        return step
    value = step.inputs[place]
    flipped[value] = ("transposed", value)
    inputs, dimensions = list(step.inputs), list(contracted)
    inputs[place], dimensions[place] = flipped[value], (1 - contracted[place][0],)
    params = {**step.equation.params, "dimension_numbers": (tuple(dimensions), batched)}
    return Step(step.equation.replace(params=params), tuple(inputs), step.outputs)


def one_by_one(steps: list[Step]) -> list[Step]:
    """Small scatters as loops over their updates.

    XLA makes one function of a loop whose body is small, but not where a scatter is in it: then
    every operation of a leapfrog step is a call of its own, which costs more than the operations.
    """
    if any(step.equation.primitive.name in _CALLED for step in steps):
        return steps
    return [step._replace(axis=_axis_of_updates(step)) for step in steps]


def _axis_of_updates(step: Step) -> int | None:
    if step.equation.primitive.name not in ("scatter", "scatter-add"):
        return None
    _, places, updates = (v.aval for v in step.equation.invars)
    numbers = step.equation.params["dimension_numbers"]
    axes = [i for i in range(updates.ndim) if i not in numbers.update_window_dims]
    if len(axes) != 1 or places.ndim != 2 or numbers.operand_batching_dims:
        return None
    return axes[0] if updates.size <= _FEW_UPDATES else None
