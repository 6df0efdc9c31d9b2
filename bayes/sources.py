"""Which arguments of a program its observed values are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from bayes.data import Data
from bayes.dependence import NOTHING, dependence
from bayes.program import is_factor
from bayes.running import run_program

__all__ = ["observed_sources"]


def observed_sources(fn: Callable, data: Data) -> dict[str, tuple[str, ...]]:
    """Arguments that each observed site's value depends on, found from the trace.

    Parameters
    ----------
    fn : callable
        The program.
    data : Data
        Its data.

    Returns
    -------
    dict
        Names of arguments by observed site. Empty where the program cannot be traced in its
        data; then values are compared by identity.
    """
    statics = {k: v for k, v in data.arguments.items() if k not in data.columns}

    def observed(arrays: dict[str, Any]) -> dict[str, Any]:
        seeded = handlers.seed(fn, jax.random.key(0))
        drawn = handlers.substitute(seeded, substitute_fn=init_to_sample())
        with jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(drawn).get_trace(**statics, **arrays)
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "sample" and site["is_observed"] and not is_factor(site)
        }

    try:
        closed, shapes = jax.make_jaxpr(observed, return_shape=True)(data.arrays)
    except Exception:
        return _by_identity(fn, data)
    leaves, _ = jax.tree.flatten_with_path(data.arrays)
    owners = [frozenset((str(path[0].key),)) for path, _ in leaves]
    found = dependence(closed.jaxpr, owners, [NOTHING] * len(closed.consts)).outputs
    # A dict's leaves come in the order of its sorted keys.
    return {name: tuple(sorted(names)) for name, names in zip(sorted(shapes), found, strict=True)}


def _by_identity(fn: Callable, data: Data) -> dict[str, tuple[str, ...]]:
    trace = run_program(fn, data, 0)
    return {
        name: tuple(a for a, v in data.arrays.items() if v is site["value"])
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"] and not is_factor(site)
    }
