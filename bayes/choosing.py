"""Which method fits a problem, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bayes.errors import SettingsError, UnsupportedModelError
from bayes.method import Method, method_by_name, methods
from bayes.model import Model, as_model
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.steps import flatten, following
from bayes.subsampling import subsampled_plates

__all__ = ["as_method", "bound_for", "choose_for", "nuts_seconds"]

_PATIENCE = 600.0
"""Seconds that NUTS may take before an approximation is chosen, where no budget is given."""
_EVALUATIONS = 40_000
"""Gradients that a run of NUTS takes in a problem of ten unknowns; they grow as d^(1/4)."""
_SECONDS_A_NUMBER = 1e-10
_SECONDS_A_CALL = 2e-6


def as_method(method: Any) -> Method | None:
    """A configured method; None for ``"auto"``.

    Raises
    ------
    SettingsError
        Where it is neither a name nor a method.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        raise SettingsError(f"method={method.__name__} is a class; pass {method.__name__}()")
    if method == "auto":
        return None
    if isinstance(method, str):
        return method_by_name(method)
    raise SettingsError(f"method is a name or a Method, got {type(method).__name__}")


def bound_for(
    method: Method | None,
    model: Any,
    dims: Mapping[str, Sequence[str]] | None,
    coords: Mapping[str, Any] | None,
    reparam: Any,
) -> Model:
    """The model with what a call says of it, or else what the method would have."""
    found = as_model(model).replace(dims=dims, coords=coords, reparam=reparam)
    if found.reparam is None and method is not None and method.reparam is not None:
        return found.replace(reparam=method.reparam)
    return found


def choose_for(problem: Problem, budget: float | None) -> tuple[Method, str]:
    """The method that ``"auto"`` stands for, and why.

    What solves the model's own structure comes first. Then NUTS, as long as its run is not
    estimated to take longer than the budget, or ten minutes. Then an approximation: on mini-batches
    where the program's plates take subsamples, else the ladder.

    The estimate counts the numbers that a gradient makes, and does not depend on the machine, so
    that the choice does not either.
    """
    for cls in methods().values():
        if cls.structured and not (cls.marginal and problem.drawn_discrete):
            try:
                method = cls()
                method.check(problem)
            except UnsupportedModelError:
                continue
            return method, f"auto: {method.name} solves the structure of this model"
    seconds, patience = nuts_seconds(problem), _PATIENCE if budget is None else budget
    estimate = f"an estimated {_in_words(seconds)}"
    if seconds <= patience:
        return method_by_name("nuts"), f"auto: NUTS is exact, and takes {estimate}"
    slow = f"auto: NUTS would take {estimate}, more than {_in_words(patience)}"
    plates = subsampled_plates(problem.model.fn)
    if plates:
        return method_by_name("advi"), f"{slow}; plate '{next(iter(plates))}' takes subsamples"
    return method_by_name("vi"), slow


def nuts_seconds(problem: Problem) -> float:
    """A rough estimate of the seconds that NUTS takes, by the numbers that a gradient makes."""

    def count() -> float:
        position = jax.ShapeDtypeStruct((problem.size,), np.float64)
        with double_precision():
            gradient = jax.value_and_grad(problem.program.log_density)
            closed = jax.make_jaxpr(gradient)(position, problem.arrays)
        steps, inputs, _, _ = flatten(closed.jaxpr, closed.consts)
        return sum(_numbers(step.equation) for step in following(steps, inputs[:1]))

    numbers = problem.program.once("numbers of a gradient", count)
    growth = (problem.size / 10.0) ** 0.25
    return _EVALUATIONS * growth * (_SECONDS_A_CALL + _SECONDS_A_NUMBER * numbers)


def _numbers(equation: Any) -> float:
    """Multiplications of a product, or else numbers that come out; a loop's for each turn."""
    inner = equation.params.get("jaxpr", equation.params.get("body_jaxpr"))
    if inner is not None and hasattr(inner, "jaxpr"):
        turns = float(equation.params.get("length", 1))
        return turns * sum(_numbers(e) for e in inner.jaxpr.eqns)
    out = float(sum(math.prod(v.aval.shape) for v in equation.outvars))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return out * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    if equation.primitive.name in ("cholesky", "triangular_solve"):
        return out * equation.invars[0].aval.shape[-1]
    return out


def _in_words(seconds: float) -> str:
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} s"
