"""A model and its data in words: what a report says of them before it shows any result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.extend.core import Var
from numpyro import handlers
from numpyro.distributions import constraints

from bayes.data import Data
from bayes.dependence import NOTHING, dependence
from bayes.problem import Problem
from bayes.program import is_factor
from bayes.structure import Site, trace_program
from bayes.supports import base_distribution, support_words

__all__ = ["data_facts", "model_facts"]

_INNER = ("base_dist", "mixing_distribution", "component_distribution")
"""Where distributions keep those they are made of."""
_BARE = (("loc", "scale"), ("low", "high"))
"""Parameters that need no names to be told apart."""
_SAME = ("reshape", "broadcast_in_dim", "convert_element_type", "squeeze", "copy")
_KINDS = {"b": "yes or no", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


def model_facts(problem: Problem) -> dict[str, Any]:
    """What a model is made of.

    Parameters
    ----------
    problem : Problem
        A model bound to its data.

    Returns
    -------
    dict
        JSON values: ``name``; ``reparametrised``, names of sites; ``sites``, a list of mappings
        with name, kind, shape, distribution with its parameters, support in words, names of plates,
        and parents: the latent sites that the distribution's parameters depend on.
    """
    model, sites = problem.model, problem.sites
    trace = trace_program(model.fn, problem.data, 0)
    try:
        words = _Words(problem, trace)
    except Exception:  # a program that cannot be followed still has sites
        words = None
    return {
        "name": model.name,
        "reparametrised": list(problem.reparametrised),
        "sites": [_site_facts(site, words) for site in sites.values()],
    }


def _site_facts(site: Site, words: _Words | None) -> dict[str, Any]:
    return {
        "name": site.name,
        "kind": site.kind,
        "shape": list(site.shape),
        "distribution": words.distribution(site.name) if words else site.distribution,
        "support": words.support(site.name) if words else "",
        "plates": [name for name, _, _ in site.plates],
        "parents": words.parents(site.name) if words else [],
    }


class _Words:
    """What is said of each site, from its numbers at a prior draw and what these depend on."""

    def __init__(self, problem: Problem, trace: Mapping[str, Any]) -> None:
        self._trace = trace
        self._names = [
            name
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        ]
        self._values: list[Any] = []
        self._outlines = {n: _outline(s, self._values) for n, s in _told(trace)}
        self._behind, self._alias = self._follow(problem)
        if len(self._behind) != len(self._values):
            raise ValueError("the program has other sites when it is traced")

    def _follow(self, problem: Problem) -> tuple[list[frozenset[str]], list[str | None]]:
        """Latent sites behind each number, and the one that it is where it is one."""
        fn = problem.model.fn
        data = {**problem.data.arguments, **jax.tree.map(jnp.asarray, problem.data.arrays)}

        def numbers(drawn: list[Any]) -> list[Any]:
            latent = dict(zip(self._names, drawn, strict=True))
            seeded = handlers.seed(handlers.substitute(fn, data=latent), jax.random.key(0))
            found: list[Any] = []
            with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
                for _, site in _told(handlers.trace(seeded).get_trace(**data)):
                    _outline(site, found)
            return found

        drawn = [jnp.asarray(self._trace[name]["value"]) for name in self._names]
        try:
            closed = jax.make_jaxpr(numbers)(drawn)
        except Exception:  # the program computes with its data in Python
            with jax.ensure_compile_time_eval():
                closed = jax.make_jaxpr(numbers)(drawn)
        inputs = [frozenset((name,)) for name in self._names]
        found = dependence(closed.jaxpr, inputs, [NOTHING] * len(closed.consts))
        own = dict(zip(closed.jaxpr.invars, self._names, strict=True))
        made_by = {out: e for e in closed.jaxpr.eqns for out in e.outvars}
        alias = [_same_as(out, own, made_by) for out in closed.jaxpr.outvars]
        return found.outputs, alias

    def parents(self, name: str) -> list[str]:
        places = _places(self._outlines[name][0])
        return self._ordered(*(self._behind[place] for place in places))

    def distribution(self, name: str) -> str:
        site = self._trace[name]
        if site["type"] != "sample":
            return ""
        return "factor" if is_factor(site) else self._write(self._outlines[name][0])

    def support(self, name: str) -> str:
        site = self._trace[name]
        if site["type"] != "sample" or is_factor(site):
            return ""
        behind = self._ordered(*(self._behind[place] for place in self._outlines[name][1]))
        if behind:
            return f"between bounds that depend on {', '.join(behind)}"
        # What follows a colon or semicolon is advice on data outside.
        words = support_words(site["fn"].support).split(":")[0].split(";")[0]
        return "real numbers" if words == "finite numbers" else words

    def _ordered(self, *names: Iterable[str]) -> list[str]:
        behind = set().union(*names)
        return [name for name in self._names if name in behind]

    def _write(self, outline: tuple[str, list]) -> str:
        name, parts = outline
        labels = tuple(label for label, _ in parts)
        bare = labels in _BARE or len(labels) == 1
        words = []
        for label, part in parts:
            text = self._write(part) if isinstance(part, tuple) else self._parameter(part)
            words.append(text if bare or not label else f"{label} {text}")
        return f"{name}({', '.join(words)})" if words else name

    def _parameter(self, place: int) -> str:
        if not self._behind[place]:
            return _constant(self._values[place])
        return self._alias[place] or f"f({', '.join(self._ordered(self._behind[place]))})"


def _told(trace: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(n, s) for n, s in trace.items() if s["type"] in ("sample", "deterministic")]


def _outline(site: Mapping[str, Any], numbers: list[Any]) -> tuple[tuple[str, list], list[int]]:
    """A site's distribution and the bounds of its support, with places among the numbers."""
    if site["type"] == "deterministic":
        numbers.append(site["value"])
        return ("", [("", len(numbers) - 1)]), []
    outline = _distribution_outline(base_distribution(site["fn"]), numbers)
    support = site["fn"].support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = []
    for name in ("lower_bound", "upper_bound"):
        if getattr(support, name, None) is not None:
            bounds.append(len(numbers))
            numbers.append(getattr(support, name))
    return outline, bounds


def _distribution_outline(fn: Any, numbers: list[Any]) -> tuple[str, list]:
    """A distribution's name, and its parameters by name as places or as distributions."""
    named = [n for n in fn.arg_constraints if vars(fn).get(n) is not None]
    parts: list[tuple[str, Any]] = []
    if not (named and isinstance(fn, dist.TransformedDistribution)):
        inner = [getattr(fn, name, None) for name in _INNER]
        parts += [
            ("", _distribution_outline(base_distribution(d), numbers))
            for d in inner
            if isinstance(d, dist.Distribution)
        ]
    for name in named:
        value = getattr(fn, name)
        several = isinstance(value, tuple)  # the factors of a product
        for place, number in enumerate(value if several else (value,)):
            if number is not None:
                parts.append((f"{name}[{place}]" if several else name, len(numbers)))
                numbers.append(number)
    return type(fn).__name__, parts


def _places(outline: tuple[str, list]) -> list[int]:
    places: list[int] = []
    for _, part in outline[1]:
        places += _places(part) if isinstance(part, tuple) else [part]
    return places


def _same_as(variable: Any, own: Mapping[Any, str], made_by: Mapping[Any, Any]) -> str | None:
    """The latent site that a variable is, but for its shape."""
    while isinstance(variable, Var) and variable not in own:
        equation = made_by.get(variable)
        if equation is None or equation.primitive.name not in _SAME:
            return None
        variable = equation.invars[0]
    return own.get(variable) if isinstance(variable, Var) else None


def _constant(value: Any) -> str:
    """Numbers that depend on no latent site."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not array.size:
        return f"an array of shape {array.shape}"
    low, high = array.min(), array.max()
    if low == high:
        return f"{low:.6g}"
    if array.ndim > 1:
        return f"an array of shape {array.shape}"
    if array.size <= 4:
        return f"[{', '.join(f'{v:.4g}' for v in array)}]"
    return f"{low:.4g} to {high:.4g}"


def data_facts(data: Data, observed: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """What the arguments of a program are.

    Parameters
    ----------
    data : Data
        Checked data.
    observed : sequence of str, optional
        Arguments that observed values are made of, where that is known.

    Returns
    -------
    list of dict
        JSON values: name, shape, kind, range in words, and use: "observed" or "given".
    """
    facts = []
    for name, value in data.arguments.items():
        about = {}
        if observed is not None:
            about = {"use": "observed" if name in observed else "given"}
        column = data.columns.get(name)
        if column is None:
            entry = {"name": name, "shape": [], "kind": "constant", "range": str(value)}
            facts.append(entry | about)
            continue
        levels = None if column.levels is None else len(column.levels)
        for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            label = name + jax.tree_util.keystr(path)
            facts.append(_array_facts(label, np.asarray(leaf), levels) | about)
    return facts


def _array_facts(name: str, array: np.ndarray, levels: int | None) -> dict[str, Any]:
    kind = "category" if levels is not None else _KINDS.get(array.dtype.kind, str(array.dtype))
    given = array[~np.isnan(array)] if array.dtype.kind == "f" else array.ravel()
    missing = array.size - given.size
    if levels is not None:
        text = f"{levels} levels"
    elif array.dtype.kind == "b":
        text = f"{int(given.sum())} of {given.size} yes"
    elif given.size:
        text = f"{given.min():.4g} to {given.max():.4g}"
    else:
        text = "no values"
    text = f"{text}, {missing} missing" if missing else text
    return {"name": name, "shape": list(array.shape), "kind": kind, "range": text}
