"""Group indices that lie outside the array they index.

JAX clamps an index beyond the end and wraps one below zero, so a wrong group code gives a wrong
posterior in silence. Here the program runs once with every index checked.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpyro
from jax.core import eval_jaxpr
from jax.experimental import checkify
from numpyro import handlers

from bayes.columns import rows_text
from bayes.data import Data
from bayes.dependence import NOTHING, Dependence, dependence
from bayes.errors import DataError

__all__ = ["check_indices", "named_inputs"]

_PADDING = "; where a negative code means 'none', use jnp.where(code < 0, 0, code)"


def check_indices(fn: Callable, data: Data, trace: Mapping[str, Any]) -> str | None:
    """Refuse data that index an array outside its bounds.

    Parameters
    ----------
    fn : callable
        The program.
    data : Data
        Its data.
    trace : mapping
        A trace of it, for the values of its latent sites.

    Returns
    -------
    str or None
        A note where the check could not be made.

    Raises
    ------
    DataError
        Names the column, the rows and the size of the array that is indexed.
    """
    statics = {k: v for k, v in data.arguments.items() if k not in data.columns}

    def run(latent: Any, arrays: Any) -> list[Any]:
        program = handlers.substitute(handlers.seed(fn, jax.random.key(0)), data=latent)
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            found = handlers.trace(program).get_trace(**statics, **arrays)
        sites = [s for s in found.values() if s["type"] in ("sample", "deterministic")]
        return jax.tree.leaves([(s.get("fn"), s["value"]) for s in sites])

    latent = {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    return _check(run, latent, data)


def _check(run: Callable, latent: Any, data: Data) -> str | None:
    leaves = _named_leaves(data.arrays)
    statics = data.statics
    traced = _trace(run, latent, data.arrays)
    if traced is None:
        return "indices were not checked: the program cannot be traced"
    jaxpr, constants, inputs = traced
    told = [_same_as(c, leaves) for c in constants]
    has_data = len(inputs) > len(jax.tree.leaves(latent))
    given = [frozenset((n,)) for n in leaves] if has_data else []
    known = [NOTHING] * (len(inputs) - len(given)) + given
    # Where the program computes with its data in Python, they are constants, and inputs unused.
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    open_data = any(id(v) in used for v in jaxpr.invars[len(inputs) - len(given) :])
    found = dependence(jaxpr, known, told)
    whole = any(type(v) is int for v in statics.values())
    if open_data and not found.indices and not whole:
        return None
    if found.fills:
        return "indices were not checked: the program says what to take beyond an array's end"
    try:
        message = _first_fault(found, constants, inputs)
    except Exception as error:  # checkify does not know every primitive
        return f"indices were not checked against their arrays ({type(error).__name__})"
    if message is not None:

        def without(name: str, value: Any) -> str | None:
            swapped = [value if t == {name} else c for t, c in zip(told, constants, strict=True)]
            moved = [value if t == {name} else v for t, v in zip(known, inputs, strict=True)]
            return _first_fault(found, swapped, moved)

        raise _out_of_range(message, found.indices, leaves, data, without)
    if not open_data:
        _refuse_wrapped(constants, leaves, data)
    return None


def _trace(run: Callable, latent: Any, arrays: Any) -> tuple[Any, list[Any], list[Any]] | None:
    """The traced program, its constants and inputs; data are constants where they must be."""
    attempts = (
        (contextlib.nullcontext(), lambda z, a: run(z, a), (latent, arrays)),
        (contextlib.nullcontext(), lambda z: run(z, arrays), (latent,)),
        (jax.ensure_compile_time_eval(), lambda z: run(z, arrays), (latent,)),
    )
    for context, attempt, inputs in attempts:

        def under(*values: Any, c: Any = context, f: Callable = attempt) -> Any:
            with c:
                return f(*values)

        try:
            closed = jax.make_jaxpr(under)(*inputs)
        except Exception:  # binding says what is wrong with the program
            continue
        return closed.jaxpr, list(closed.consts), jax.tree.leaves(inputs)
    return None


def _first_fault(found: Dependence, constants: list[Any], inputs: list[Any]) -> str | None:
    def plain(constants: list[Any], inputs: list[Any]) -> Any:
        return eval_jaxpr(found.plain, constants, *inputs)

    error, _ = checkify.checkify(plain, errors=checkify.index_checks)(constants, inputs)
    return error.get()


def _refuse_wrapped(constants: list[Any], leaves: Mapping[str, Any], data: Data) -> None:
    """Refuse negative indices that were counted from the end before the program was traced."""
    flat = [np.ravel(c) for c in constants if np.asarray(c).dtype.kind in "iu"]
    for name, leaf in leaves.items():
        value = np.ravel(leaf)
        if value.dtype.kind != "i" or not (value < 0).any():
            continue
        for constant in flat:
            if constant.shape == value.shape and (constant >= 0).all():
                moved = constant - value
                if (moved[value >= 0] == 0).all() and len(set(moved[value < 0].tolist())) == 1:
                    size = int(moved[value < 0][0])
                    message = f"index {value.min()} is out of bounds for axis 0 with size {size}"
                    raise _out_of_range(message, frozenset((name,)), leaves, data, lambda *_: None)


def named_inputs(
    data: Data, constants: Sequence[Any]
) -> tuple[list[frozenset[str]], list[frozenset[str]]]:
    """Names of the data's leaves, and those that each constant of a program is equal to."""
    leaves = _named_leaves(data.arrays)
    return [frozenset((n,)) for n in leaves], [_same_as(c, leaves) for c in constants]


def _named_leaves(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Every array of the data by name, those of a pytree with their place in it."""
    pairs, _ = jax.tree.flatten_with_path(dict(arrays))
    return {str(path[0].key) + jax.tree_util.keystr(path[1:]): leaf for path, leaf in pairs}


def _same_as(constant: Any, leaves: Mapping[str, Any]) -> frozenset[str]:
    """The data that a constant of the program is."""
    shape, dtype = np.shape(constant), getattr(constant, "dtype", None)
    return frozenset(
        name
        for name, leaf in leaves.items()
        if np.ndim(leaf) > 0
        and leaf.shape == shape
        and leaf.dtype == dtype
        and np.array_equal(leaf, constant)
    )


def _out_of_range(
    message: str,
    indices: frozenset[str],
    leaves: Mapping[str, Any],
    data: Data,
    without: Callable[[str, Any], str | None],
) -> DataError:
    """The error for a fault; the column is the one without whose wrong values it is gone."""
    first = message.split("\n")[0]
    found = re.search(r"index (-?\d+) is out of bounds for axis \d+ with size (\d+)", first)
    if found is None:
        shape = re.search(r"shape \(([\d, ]*)\)", first)
        text = f"of shape ({shape.group(1)})" if shape else "of the program"
        index, size = None, None
    else:
        index, size = int(found.group(1)), int(found.group(2))
        text = f"of size {size}"
    for name in sorted(indices):
        value = np.asarray(leaves[name])
        if size is None or index is None or value.dtype.kind not in "iuf":
            break
        wrong = (value >= size) | (value < 0)
        if (value == index).any() and without(name, np.where(wrong, 0, value)) != message:
            column = data.columns.get(name)
            rows = np.unique(np.nonzero(np.atleast_1d(wrong))[0])
            where = rows_text(rows, None if column is None else column.labels)
            low, high = value.min().item(), value.max().item()
            return DataError(
                f"column '{name}' is used as an index into an array {text}, but has values from "
                f"{low} to {high} ({where}); indices count from 0{_PADDING if low < 0 else ''}"
            )
    made_of = f"; it is made of {', '.join(sorted(indices))}" if indices else ""
    shown = "an index" if index is None else f"index {index}"
    return DataError(f"the program uses {shown} for an array {text}{made_of}; indices count from 0")
