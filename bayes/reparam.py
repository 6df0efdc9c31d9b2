"""Which sites to non-centre: location-scale sites whose location or scale is itself unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer.inspect import get_dependencies
from numpyro.infer.reparam import LocScaleReparam, Reparam

from bayes.data import Data
from bayes.errors import SettingsError
from bayes.structure import Site

__all__ = ["apply_reparam", "centred_sites", "may_be_centred"]

_SHAPE_PARAMETERS: dict[type, tuple[str, ...]] = {
    dist.Normal: (),
    dist.Cauchy: (),
    dist.Laplace: (),
    dist.Gumbel: (),
    dist.Logistic: (),
    dist.StudentT: ("df",),
}


def _family(fn: Any) -> Any:
    """What numpyro's reparametrisations unwrap; a masked distribution is left alone by them."""
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent)):
        fn = fn.base_dist
    return fn


def centred_sites(
    fn: Callable, data: Data, trace: Mapping[str, Any], sites: Mapping[str, Site]
) -> dict[str, Reparam]:
    """Location-scale sites with latent parents, with the reparametrisation that non-centres them.

    Parameters
    ----------
    fn : callable
        The program.
    data : Data
        Its data.
    trace : mapping
        A trace of it.
    sites : mapping
        Its sites.

    Returns
    -------
    dict
        numpyro.infer.reparam.LocScaleReparam by site name.
    """
    candidates = _candidates(trace, sites)
    if not candidates:
        return {}
    with jax.numpy_rank_promotion("allow"):
        found: Any = get_dependencies(fn, (), data.arguments)
    parents = found["prior_dependencies"]
    latent = {name for name, site in sites.items() if site.kind == "latent"}
    chosen: dict[str, Reparam] = {}
    for name in candidates:
        support = trace[name]["fn"].support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if support is constraints.real and (set(parents.get(name, ())) - {name}) & latent:
            shape_parameters = _SHAPE_PARAMETERS[type(_family(trace[name]["fn"]))]
            chosen[name] = LocScaleReparam(centered=0, shape_params=shape_parameters)
    return chosen


def may_be_centred(
    trace: Mapping[str, Any], other: Mapping[str, Any], sites: Mapping[str, Site]
) -> bool:
    """Whether some location-scale site has other parameters in another trace.

    Where none has, none has latent parents, and there is no need to look for them.
    """
    return any(
        name not in other or _differ(trace[name]["fn"], other[name]["fn"])
        for name in _candidates(trace, sites)
    )


def _candidates(trace: Mapping[str, Any], sites: Mapping[str, Site]) -> list[str]:
    return [
        name
        for name, site in sites.items()
        if site.kind == "latent" and type(_family(trace[name]["fn"])) in _SHAPE_PARAMETERS
    ]


def _differ(one: Any, other: Any) -> bool:
    (a, of_one), (b, of_other) = map(jax.tree.flatten, (one, other))
    if of_one != of_other:
        return True
    return any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def apply_reparam(
    fn: Callable,
    reparam: Any,
    data: Data,
    trace: Mapping[str, Any],
    sites: Mapping[str, Site],
) -> tuple[Callable, tuple[str, ...]]:
    """Reparametrise a program.

    Parameters
    ----------
    reparam : None, "auto", mapping or callable
        ``"auto"`` non-centres :func:`centred_sites`; a mapping from site to
        ``numpyro.infer.reparam.Reparam`` or a callable goes to ``numpyro.handlers.reparam``.

    Returns
    -------
    tuple
        The program and the names of the sites that were reparametrised.
    """
    if reparam is None:
        return fn, ()
    if reparam == "auto":
        reparam = centred_sites(fn, data, trace, sites)
    if isinstance(reparam, Mapping):
        unknown = [name for name in reparam if name not in sites]
        if unknown:
            raise SettingsError(
                f"reparam names sites that the program does not have: {', '.join(unknown)}; "
                f"it has {', '.join(sites)}"
            )
        if not reparam:
            return fn, ()
        return handlers.reparam(fn, config=dict(reparam)), tuple(reparam)
    if callable(reparam):
        config: Any = reparam
        return handlers.reparam(fn, config=config), ("callable",)
    raise SettingsError(
        f"reparam is None, 'auto', a mapping from site to Reparam or a callable, not {reparam!r}"
    )
