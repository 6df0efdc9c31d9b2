"""A traced program, equation by equation in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal  # pyright: ignore[reportPrivateImportUsage]

from bayes import threefry
from bayes.dependence import scan_layout
from bayes.evaluation.elementwise import ELEMENTWISE
from bayes.evaluation.indexing import INDEXING
from bayes.evaluation.random import RANDOM
from bayes.evaluation.reductions import REDUCTIONS
from bayes.evaluation.shapes import SHAPES

__all__ = ["Unsuitable", "evaluate"]

_PRIMITIVES = {**ELEMENTWISE, **INDEXING, **RANDOM, **REDUCTIONS, **SHAPES}

_MOST_EQUATIONS = 20_000
"""Equations computed at most: a long loop is faster compiled."""

_CALLS = frozenset(
    (
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "jit",
        "named_call",
        "pjit",
        "remat",
        "remat2",
    )
)


class Unsuitable(Exception):
    """A program that is not for NumPy: it loops for long, or hides where it indexes."""


def evaluate(jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any]) -> list[np.ndarray]:
    """Outputs of a traced program.

    Primitives that NumPy lacks are left to JAX, one by one. Gamma variates are others than those
    that JAX draws; other random numbers are the same.

    Parameters
    ----------
    jaxpr : Jaxpr
        The program.
    constants, inputs : sequence of array
        Its constants and inputs; arrays of keys as :mod:`bayes.threefry` has them.

    Returns
    -------
    list of array

    Raises
    ------
    OutOfBounds
        Where an index lies outside of what it indexes.
    Unsuitable, NotImplementedError, KeyError
        Where the program is not for NumPy.
    """
    run = _Run()
    with np.errstate(all="ignore"):
        return run.through(jaxpr, [_host(c) for c in constants], [np.asarray(v) for v in inputs])


def _host(constant: Any) -> np.ndarray:
    if isinstance(constant, jax.Array) and jax.dtypes.issubdtype(
        constant.dtype, jax.dtypes.prng_key
    ):
        if str(jax.random.key_impl(constant)) != "threefry2x32":
            raise Unsuitable("keys of another kind")
        return threefry.words(jax.random.key_data(constant))
    return np.asarray(constant)


class _Run:
    """One evaluation, with the number of its equations so far."""

    def __init__(self) -> None:
        self.equations = 0

    def through(
        self, jaxpr: Jaxpr, constants: Sequence[np.ndarray], inputs: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        self.equations += len(jaxpr.eqns)
        if self.equations > _MOST_EQUATIONS:
            raise Unsuitable("the program loops for long")
        known: dict[Any, np.ndarray] = dict(zip(jaxpr.constvars, constants, strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def value(v: Any) -> np.ndarray:
            if not isinstance(v, Literal):
                return known[v]
            literal: Any = v
            return np.asarray(literal.val, literal.aval.dtype)

        for equation in jaxpr.eqns:
            outputs = self._equation(equation, [value(v) for v in equation.invars])
            for var, output in zip(equation.outvars, outputs, strict=True):
                known[var] = _as_declared(output, var.aval)
        return [value(v) for v in jaxpr.outvars]

    def closed(self, program: ClosedJaxpr, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.through(program.jaxpr, [_host(c) for c in program.consts], inputs)

    def _equation(self, equation: Any, inputs: list[np.ndarray]) -> Sequence[Any]:
        name = equation.primitive.name
        known = _PRIMITIVES.get(name)
        if known is not None:
            output = known(equation.params, *inputs)
            return output if equation.primitive.multiple_results else [output]
        if name in _CALLS:
            return self._call(equation, inputs)
        if name == "cond":
            branches = equation.params["branches"]
            return self.closed(branches[int(np.clip(inputs[0], 0, len(branches) - 1))], inputs[1:])
        if name == "while":
            return self._while(equation.params, inputs)
        if name == "scan":
            return self._scan(equation, inputs)
        if name == "custom_linear_solve":
            return self._linear_solve(equation.params, inputs)
        return _compiled(equation, inputs)

    def _call(self, equation: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            program = equation.params.get(key)
            if isinstance(program, ClosedJaxpr):
                return self.closed(program, inputs)
            if isinstance(program, Jaxpr):
                return self.through(program, (), inputs)
        raise Unsuitable(equation.primitive.name)

    def _while(self, p: dict[str, Any], inputs: list[np.ndarray]) -> list[np.ndarray]:
        split = p["cond_nconsts"]
        before, inner = inputs[:split], inputs[split : split + p["body_nconsts"]]
        carry = inputs[split + p["body_nconsts"] :]
        while self.closed(p["cond_jaxpr"], [*before, *carry])[0].any():
            carry = self.closed(p["body_jaxpr"], [*inner, *carry])
        return carry

    def _scan(self, equation: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
        p = equation.params
        body, length = p["jaxpr"], p["length"]
        if length * len(body.jaxpr.eqns) > _MOST_EQUATIONS - self.equations:
            raise Unsuitable("the program loops for long")
        fixed, carried = scan_layout(equation, body.jaxpr)
        constants, carry = inputs[:fixed], inputs[fixed : fixed + carried]
        rows = inputs[fixed + carried :]
        found: list[list[np.ndarray]] = []
        for step in reversed(range(length)) if p["reverse"] else range(length):
            outputs = self.closed(body, [*constants, *carry, *(np.asarray(r[step]) for r in rows)])
            carry, stacked = outputs[:carried], outputs[carried:]
            found.append(stacked)
        if p["reverse"]:
            found.reverse()
        kept = equation.outvars[carried:]
        columns = zip(*found, strict=True) if found else [()] * len(kept)
        return carry + [
            np.stack(column) if column else np.zeros(v.aval.shape, v.aval.dtype)
            for column, v in zip(columns, kept, strict=True)
        ]

    def _linear_solve(self, p: dict[str, Any], inputs: list[np.ndarray]) -> list[np.ndarray]:
        counts = p["const_lengths"]
        before = counts.matvec + counts.vecmat
        constants = inputs[before : before + counts.solve]
        given = inputs[before + counts.solve + counts.transpose_solve :]
        return self.closed(p["jaxprs"].solve, [*constants, *given])


def _as_declared(output: Any, aval: Any) -> np.ndarray:
    """A value of the type that JAX gives it; NumPy promotes otherwise here and there."""
    output = np.asarray(output)
    if output.shape != aval.shape:
        raise Unsuitable(f"shape {output.shape} where JAX has {aval.shape}")
    if isinstance(aval.dtype, np.dtype) and output.dtype != aval.dtype:
        return output.astype(aval.dtype)
    return output


def _compiled(equation: Any, inputs: list[np.ndarray]) -> Sequence[Any]:
    """An equation that only JAX knows how to compute."""
    if any(isinstance(v, (Jaxpr, ClosedJaxpr)) for v in jax.tree.leaves(equation.params)):
        raise Unsuitable(equation.primitive.name)
    given = [
        v if isinstance(var.aval.dtype, np.dtype) else threefry.as_key(v)
        for v, var in zip(inputs, equation.invars, strict=True)
    ]
    parameters = equation.primitive.get_bind_params(equation.params)
    # Before JAX 0.9 functions that are parameters came apart from the rest.
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    outputs = equation.primitive.bind(*functions, *map(jax.numpy.asarray, given), **parameters)
    return [_host(v) for v in (outputs if equation.primitive.multiple_results else [outputs])]
