"""What the values of a traced program depend on, followed into calls, loops and branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["NOTHING", "Dependence", "dependence", "scan_layout"]

Names = frozenset[str]
NOTHING: Names = frozenset()


@dataclasses.dataclass(frozen=True)
class Dependence:
    """What a traced program's outputs and indices are made of.

    Parameters
    ----------
    outputs : list of frozenset of str
        Names of the inputs that each output depends on.
    indices : frozenset of str
        Names of the inputs that positions in indexed arrays depend on.
    fills : bool
        Whether a gather with such an index names a value for positions out of bounds.
    plain : Jaxpr
        The program without the step that lets an index made of named inputs count from the end:
        in it, a negative index is out of bounds.
    """

    outputs: list[Names]
    indices: Names
    fills: bool
    plain: Jaxpr


def dependence(jaxpr: Jaxpr, inputs: Sequence[Names], constants: Sequence[Names]) -> Dependence:
    """Follow named inputs through a traced program.

    Parameters
    ----------
    jaxpr : Jaxpr
        The program.
    inputs, constants : sequence of frozenset of str
        Names that each of its inputs and constants stands for.

    Returns
    -------
    Dependence
    """
    walk = _Walk()
    outputs, plain = walk.through(jaxpr, inputs, constants)
    return Dependence(outputs, frozenset(walk.indices), walk.fills, plain)


class _Walk:
    """A pass over a program that gathers what indices depend on."""

    def __init__(self) -> None:
        self.indices: set[str] = set()
        self.fills = False

    def through(
        self, jaxpr: Jaxpr, inputs: Sequence[Names], constants: Sequence[Names] = ()
    ) -> tuple[list[Names], Jaxpr]:
        """Names behind each output, and the program with plain indices."""
        known: dict[Any, Names] = dict(zip(jaxpr.invars, inputs, strict=True))
        known.update(zip(jaxpr.constvars, constants, strict=False))
        made_by: dict[Any, Any] = {}
        renamed: dict[Any, Any] = {}
        equations = []

        def names(v: Any) -> Names:
            return NOTHING if isinstance(v, Literal) else known.get(v, NOTHING)

        def current(v: Any) -> Any:
            return v if isinstance(v, Literal) else renamed.get(v, v)

        for equation in jaxpr.eqns:
            index = _counted_from_end(equation, made_by, jaxpr.constvars)
            made_by.update(dict.fromkeys(equation.outvars, equation))
            if index is not None and names(index):
                known[equation.outvars[0]] = names(index)
                renamed[equation.outvars[0]] = current(index)
                continue
            behind = [names(v) for v in equation.invars]
            self._note_indices(equation, behind)
            outputs, parameters = self._into(equation, behind)
            known.update(zip(equation.outvars, outputs, strict=True))
            equations.append(
                equation.replace(
                    invars=[current(v) for v in equation.invars],
                    params={**equation.params, **parameters},
                )
            )
        plain = jaxpr.replace(eqns=equations, outvars=[current(v) for v in jaxpr.outvars])
        return [names(v) for v in jaxpr.outvars], plain

    def _note_indices(self, equation: Any, behind: list[Names]) -> None:
        name = equation.primitive.name
        if name == "gather" or name.startswith("scatter"):
            used = behind[1]
            value = equation.params.get("fill_value")
            self.fills |= bool(used) and value is not None and value == value
        elif name == "dynamic_slice":
            used = NOTHING.union(*behind[1:])
        elif name == "dynamic_update_slice":
            used = NOTHING.union(*behind[2:])
        else:
            return
        self.indices |= used

    def _into(self, equation: Any, behind: list[Names]) -> tuple[list[Names], dict[str, Any]]:
        """Names behind an equation's outputs, and its inner programs with plain indices."""
        everything = NOTHING.union(*behind)
        outputs = [everything] * len(equation.outvars)
        parameters: dict[str, Any] = {}
        name = equation.primitive.name
        if name == "scan":
            inner = equation.params["jaxpr"]
            before, carried = scan_layout(equation, inner.jaxpr)
            outputs, plain = self._loop(inner.jaxpr, behind, before, carried)
            return outputs, {"jaxpr": inner.replace(jaxpr=plain)}
        if name == "while":
            split = equation.params["cond_nconsts"]
            body = equation.params["body_jaxpr"]
            before = equation.params["body_nconsts"]
            carried = len(body.jaxpr.outvars)
            outputs, plain = self._loop(body.jaxpr, behind[split:], before, carried)
            condition = NOTHING.union(*behind[:split])
            return [o | condition for o in outputs], {"body_jaxpr": body.replace(jaxpr=plain)}
        if name == "cond":
            branches = []
            outputs = [behind[0]] * len(equation.outvars)
            for branch in equation.params["branches"]:
                found, plain = self.through(branch.jaxpr, behind[1:])
                outputs = [a | b for a, b in zip(outputs, found, strict=True)]
                branches.append(branch.replace(jaxpr=plain))
            return outputs, {"branches": tuple(branches)}
        for key, value in equation.params.items():
            closed = isinstance(value, ClosedJaxpr)
            if not closed and not isinstance(value, Jaxpr):
                continue
            inner = value.jaxpr if closed else value
            same = len(inner.invars) == len(behind)
            found, plain = self.through(inner, behind if same else [everything] * len(inner.invars))
            if same and len(found) == len(outputs):
                outputs = found
            parameters[key] = value.replace(jaxpr=plain) if closed else plain
        return outputs, parameters

    def _loop(
        self, body: Jaxpr, behind: list[Names], before: int, carried: int
    ) -> tuple[list[Names], Jaxpr]:
        """A loop's body, until what it carries from one round to the next brings nothing new."""
        behind = list(behind)
        while True:
            outputs, plain = self.through(body, behind)
            after = list(behind)
            for place in range(carried):
                after[before + place] = after[before + place] | outputs[place]
            if after == behind:
                return outputs, plain
            behind = after


def scan_layout(equation: Any, body: Jaxpr) -> tuple[int, int]:
    """Numbers of a scan's constants and of the values it carries.

    Read off the shapes, because JAX has changed how it names them: what is scanned over or stacked
    has one dimension more outside than inside.
    """

    def same(outer: Any, inner: Any) -> bool:
        return len(outer.aval.shape) == len(inner.aval.shape)

    carried = sum(map(same, equation.outvars, body.outvars))
    kept = sum(map(same, equation.invars, body.invars))
    return kept - carried, carried


def _counted_from_end(equation: Any, made_by: dict[Any, Any], constants: Sequence[Any]) -> Any:
    """The index that an equation lets count from the end: ``where(i < 0, i + size, i)``."""
    name = equation.primitive.name
    if name == "select_n" and len(equation.invars) == 3:
        condition, index, shifted = equation.invars
    elif name in ("jit", "pjit") and equation.params.get("name") == "_where":
        if len(equation.invars) != 3:
            return None
        condition, shifted, index = equation.invars
    else:
        return None
    if any(isinstance(v, Literal) for v in (condition, index, shifted)):
        return None
    test, sum_ = made_by.get(condition), made_by.get(shifted)
    if sum_ is None or sum_.primitive.name != "add" or index.aval.dtype.kind not in "iu":
        return None
    own = _before_conversion(index, made_by)
    if _before_conversion(sum_.invars[0], made_by) is not own:
        return None
    if test is None:  # NumPy has compared a constant index before JAX saw it
        return index if any(condition is v for v in constants) else None
    if test.primitive.name != "lt" or _before_conversion(test.invars[0], made_by) is not own:
        return None
    below = test.invars[1]
    return index if isinstance(below, Literal) and not below.val else None


def _before_conversion(v: Any, made_by: dict[Any, Any]) -> Any:
    while not isinstance(v, Literal):
        equation = made_by.get(v)
        if equation is None or equation.primitive.name != "convert_element_type":
            return v
        v = equation.invars[0]
    return v
