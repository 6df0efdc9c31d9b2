"""The groups of a posterior's DataTree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from bayes.batches import batch_size, require_memory
from bayes.dims import data_dims
from bayes.errors import UnsupportedModelError
from bayes.predict import predictive_values, sampled_values
from bayes.problem import Problem
from bayes.program import is_factor
from bayes.structure import trace_program

__all__ = [
    "GROUPS",
    "compute_group",
    "constant_group",
    "observed_group",
    "site_dataset",
]

GROUPS = ("log_likelihood", "log_prior", "prior", "prior_predictive", "posterior_predictive")


def site_dataset(
    problem: Problem, values: Mapping[str, np.ndarray], lead: tuple[str, ...] = ("chain", "draw")
) -> xr.Dataset:
    """Values by site, of shape (*lead, *site shape), with the model's dims and coords."""
    variables, used = {}, set()
    for name, value in values.items():
        dims = problem.dims.get(name)
        ndim = value.ndim - len(lead)
        if dims is None or len(dims) != ndim:
            dims = tuple(f"{name}_dim_{i}" for i in range(ndim))
        fits = all(
            d not in problem.coords or len(problem.coords[d]) == n
            for d, n in zip(dims, value.shape[len(lead) :], strict=True)
        )
        dims = dims if fits else tuple(f"{name}_dim_{i}" for i in range(ndim))
        used.update(dims)
        variables[name] = ((*lead, *dims), value)
    coords: dict[str, Any] = {d: problem.coords[d] for d in used if d in problem.coords}
    if variables:
        shape = next(iter(variables.values()))[1].shape
        coords.update({d: np.arange(n) for d, n in zip(lead, shape[: len(lead)], strict=True)})
    return xr.Dataset(variables, coords=coords)


def observed_group(problem: Problem) -> xr.Dataset | None:
    """Observed values by site."""
    trace = trace_program(problem.model.fn, problem.data, 0)
    values = {
        name: np.asarray(site["value"])
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"] and not is_factor(site)
    }
    return site_dataset(problem, values, lead=()) if values else None


def constant_group(problem: Problem) -> xr.Dataset | None:
    """Arguments that are not observed values."""
    sizes = {
        plate: size for site in problem.sites.values() for plate, _, size in site.plates
    }
    variables: dict[str, Any] = {}
    for name, value in problem.data.arrays.items():
        if name in problem.observed_arguments:
            continue
        if isinstance(value, np.ndarray):
            dims = data_dims(name, value, problem.data, sizes)
            variables[name] = (dims, value)
        else:
            for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
                label = name + jax.tree_util.keystr(path)
                dims = tuple(f"{label}_dim_{i}" for i in range(np.ndim(leaf)))
                variables[label] = (dims, np.asarray(leaf))
    used = {d for dims, _ in variables.values() for d in dims}
    for name in [n for n in variables if n in used and variables[n][0] != (n,)]:
        # xarray keeps a dimension's name for its labels.
        suffix = "codes" if name in problem.data.levels else "data"
        variables[f"{name}_{suffix}"] = variables.pop(name)
    coords = {d: problem.coords[d] for d in used if d in problem.coords and d not in variables}
    for name, column in problem.data.columns.items():
        for dim, labels in column.coords.items():
            if name in variables and dim in used and dim not in variables:
                coords.setdefault(dim, labels)
    sized = {d: n for dims, v in variables.values() for d, n in zip(dims, v.shape, strict=True)}
    coords = {d: c for d, c in coords.items() if len(c) == sized[d]}
    return xr.Dataset(variables, coords=coords) if variables else None


def compute_group(
    problem: Problem, tree: xr.DataTree, group: str, seed: int, draws: int, memory: float
) -> dict[str, xr.Dataset]:
    """Compute a group on request; some bring others with them."""
    if group in ("prior", "prior_predictive"):
        return _prior_groups(problem, seed, draws)
    if group == "posterior_predictive":
        values, _ = predictive_values(problem, tree, problem.data, seed, memory)
        observed = {n: v for n, v in values.items() if problem.sites[n].kind == "observed"}
        return {group: site_dataset(problem, observed)}
    likelihood = _log_probs(problem, tree, memory, likelihood=group == "log_likelihood")
    return {group: likelihood}


def _prior_groups(problem: Problem, seed: int, draws: int) -> dict[str, xr.Dataset]:
    values = {k: v[None] for k, v in problem.prior(draws, seed).items() if k in problem.sites}
    kind = {n: problem.sites[n].kind for n in values}
    prior = {n: v for n, v in values.items() if kind[n] in ("latent", "deterministic")}
    observed = {n: v for n, v in values.items() if kind[n] == "observed"}
    return {
        "prior": site_dataset(problem, prior),
        "prior_predictive": site_dataset(problem, observed),
    }


def _log_probs(
    problem: Problem, tree: xr.DataTree, memory: float, *, likelihood: bool
) -> xr.Dataset:
    sampled = {s.name for s in problem.program.latents}
    if problem.discrete:
        raise UnsupportedModelError(
            f"log probabilities by site need values of the enumerated sites "
            f"({', '.join(problem.discrete)}); marginalise them by hand for PSIS-LOO"
        )
    values = sampled_values(problem, tree)
    lead = next(iter(values.values())).shape[:2]
    one = {k: v[:1, :1] for k, v in values.items()}
    kinds = {n: s.kind for n, s in problem.sites.items()}
    shapes = {
        n: v.shape[2:]
        for n, v in problem.site_log_probs(one, batch=1).items()
        if (n in sampled) != likelihood and (not likelihood or kinds.get(n) == "observed")
    }
    if likelihood and not shapes:
        raise UnsupportedModelError(
            "the program has no observed site (its likelihood is a numpyro.factor), so there is no "
            "log likelihood by observation"
        )
    count = lead[0] * lead[1]
    per_draw = 8 * sum(int(np.prod(s, dtype=int)) for s in shapes.values())
    require_memory(per_draw * count, memory, "log likelihood" if likelihood else "log prior")
    step = batch_size(per_draw, memory - per_draw * count, count)
    flat = {k: v.reshape(1, count, *v.shape[2:]) for k, v in values.items()}
    out = {n: np.empty((count, *s)) for n, s in shapes.items()}
    for begin in range(0, count, step):
        part = {k: v[:, begin : begin + step] for k, v in flat.items()}
        found = problem.site_log_probs(part, batch=min(step, 64))
        for name, target in out.items():
            target[begin : begin + step] = found[name][0]
    return site_dataset(problem, {n: v.reshape(*lead, *v.shape[1:]) for n, v in out.items()})
