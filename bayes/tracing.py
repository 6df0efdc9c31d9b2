"""A program traced once at its data, and its trace at the numbers of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property
from numpyro.infer.initialization import init_to_uniform

from bayes.data import Data
from bayes.evaluation.interpreter import Unsuitable
from bayes.program import is_factor
from bayes.running import StrictTrace

__all__ = ["Traced"]

_KEPT = ("type", "name", "is_observed", "cond_indep_stack", "infer")


class _Output(int):
    """The place of a leaf among the outputs of the traced program."""


@dataclasses.dataclass(frozen=True)
class _Site:
    """A site without its numbers.

    Parameters
    ----------
    rest : dict
        What there is besides value and distribution.
    leaves : list
        Their leaves: places among the outputs, and constants.
    structure : PyTreeDef
        How they are made of their leaves.
    """

    rest: dict[str, Any]
    leaves: list[Any]
    structure: Any

    def at(self, outputs: Sequence[Any]) -> dict[str, Any]:
        leaves = [outputs[v] if isinstance(v, _Output) else v for v in self.leaves]
        value, fn = jax.tree.unflatten(self.structure, leaves)
        return {**self.rest, "value": value, "fn": fn}


class Traced:
    """A program traced at draws of its latent sites from their priors.

    Parameters
    ----------
    fn : callable
        The program.
    data : Data
        Its data.

    Attributes
    ----------
    closed : ClosedJaxpr
        From the data of a key and the arrays' leaves to numbers of the sites.
    observed : dict
        By observed site, the output that its value is; None where it is a constant.

    Raises
    ------
    Unsuitable
        Where a distribution holds numbers that its leaves do not tell. A program that cannot be
        traced raises what it raises.
    """

    def __init__(self, fn: Callable, data: Data) -> None:
        self._fn = fn
        self._statics = data.statics
        self._sites: dict[str, _Site] = {}
        self.observed: dict[str, int | None] = {}
        self.closed = jax.make_jaxpr(self._run)(np.zeros(2, np.uint32), data.arrays)

    @property
    def outline(self) -> list[Any]:
        """What the sites are made of besides the outputs."""
        return [
            (name, site.rest["type"], str(site.structure), [_in_full(v) for v in site.leaves])
            for name, site in self._sites.items()
        ]

    def at(self, outputs: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """The trace at the numbers of an evaluation."""
        return {name: site.at(outputs) for name, site in self._sites.items()}

    def _run(self, key_data: Any, arrays: Mapping[str, Any]) -> list[Any]:
        key = jax.random.wrap_key_data(key_data, impl="threefry2x32")
        drawn = handlers.substitute(handlers.seed(self._fn, key), substitute_fn=_prior_draw)
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            trace = StrictTrace(drawn).get_trace(**self._statics, **arrays)
        outputs: list[Any] = []
        for name, site in trace.items():
            self._sites[name] = self._take_apart(site, outputs)
        return outputs

    def _take_apart(self, site: dict[str, Any], outputs: list[Any]) -> _Site:
        rest = {key: site[key] for key in _KEPT if key in site}
        if site["type"] == "plate":
            rest["args"] = site["args"]
            return _Site(rest, *jax.tree.flatten((None, None)))
        fn = site.get("fn") if site["type"] == "sample" else None
        leaves, structure = jax.tree.flatten((site["value"], fn))
        _require_whole(fn, jax.tree.unflatten(structure, leaves)[1])
        kept = []
        for leaf in leaves:
            if isinstance(leaf, Tracer):
                kept.append(_Output(len(outputs)))
                outputs.append(leaf)
            else:
                kept.append(np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf)
        if site["type"] == "sample" and site["is_observed"] and not is_factor(site):
            self.observed[site["name"]] = kept[0] if isinstance(kept[0], _Output) else None
        return _Site(rest, kept, structure)


def _prior_draw(site: dict[str, Any]) -> Any:
    """A draw from a continuous site's prior; where it has none, uniform when unconstrained."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].support.is_discrete:
        return None
    if site["value"] is not None:
        raise Unsuitable(f"site '{site['name']}' has a value")
    biject_to(site["fn"].support)  # refuses a support that has no bijection
    options = site["kwargs"]
    try:
        return site["fn"](rng_key=options["rng_key"], sample_shape=options["sample_shape"])
    except NotImplementedError:
        return init_to_uniform(site)


def _require_whole(original: Any, rebuilt: Any) -> None:
    """Refuse a distribution that does not come back whole from its leaves."""
    if isinstance(original, (list, tuple)):
        for a, b in zip(original, rebuilt, strict=True):
            _require_whole(a, b)
    if not isinstance(original, (dist.Distribution, Constraint, Transform)):
        return
    for name, value in vars(original).items():
        if isinstance(getattr(type(original), name, None), lazy_property) or value is None:
            continue
        if name not in vars(rebuilt):
            # NumPyro's own leave out what follows from the rest: names of parameters.
            if type(original).__module__.startswith("numpyro.") and not _is_number(value):
                continue
            raise Unsuitable(f"{type(original).__name__} does not hand on its {name}")
        _require_whole(value, vars(rebuilt)[name])


def _is_number(value: Any) -> bool:
    kinds = (dist.Distribution, Constraint, Transform, jax.Array, np.ndarray)
    return isinstance(value, kinds)


def _in_full(leaf: Any) -> Any:
    """A leaf of which every number shows."""
    return (leaf.shape, str(leaf.dtype), leaf.tobytes()) if isinstance(leaf, np.ndarray) else leaf
