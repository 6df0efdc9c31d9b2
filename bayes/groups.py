"""The groups of a posterior's DataTree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer.util import compute_log_probs

from bayes.batches import map_draws, require_memory
from bayes.dims import data_dims, fitting_dims
from bayes.errors import ModelError, UnsupportedModelError
from bayes.problem import Problem
from bayes.program import is_factor
from bayes.stored_draws import StoredDraws, lazy_variable
from bayes.structure import trace_program

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "constant_group",
    "log_probabilities",
    "observed_group",
    "prior_groups",
    "sampled_values",
    "site_dataset",
]


def site_dataset(
    problem: Problem,
    values: Mapping[str, np.ndarray | StoredDraws],
    lead: tuple[str, ...] = ("chain", "draw"),
) -> xr.Dataset:
    """Values by site, of shape (*lead, *site shape), with the model's dims and coords."""
    import xarray as xr

    variables: dict[str, Any] = {}
    used: dict[str, None] = {}  # a set in the order of the program
    for name, value in values.items():
        dims = fitting_dims(name, value.shape[len(lead) :], problem.dims, problem.coords)
        used.update(dict.fromkeys(dims))
        stored = isinstance(value, StoredDraws)
        everything = (*lead, *dims)
        variables[name] = lazy_variable(everything, value) if stored else (everything, value)
    coords: dict[str, Any] = {}
    if variables:
        shape = next(iter(values.values())).shape
        coords.update({d: np.arange(n) for d, n in zip(lead, shape[: len(lead)], strict=True)})
    coords.update({d: problem.coords[d] for d in used if d in problem.coords})
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
    import xarray as xr

    sizes = {plate: size for site in problem.sites.values() for plate, _, size in site.plates}
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
    used = dict.fromkeys(d for dims, _ in variables.values() for d in dims)
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


def sampled_values(problem: Problem, tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Draws of the sampled sites, of shape (chain, draw, ...)."""
    found = {}
    for name in (*(s.name for s in problem.program.latents), *problem.drawn_discrete):
        for group in ("posterior", "auxiliary"):
            if group in tree.children and name in tree[group].data_vars:
                variable = tree[group][name]
                found[name] = variable.transpose("chain", "draw", ...).values
                break
        else:
            raise ModelError(
                f"the posterior has no draws of the sampled site '{name}', from which this "
                "is computed"
            )
    return found


def prior_groups(
    problem: Problem, seed: int, draws: int, memory: int | float
) -> dict[str, xr.Dataset]:
    """Prior and prior predictive draws, which come from the same runs."""
    sites = problem.sites.values()
    size = sum(int(np.prod(s.shape, dtype=int)) for s in sites)
    require_memory(8 * size * draws, memory, "prior")
    values = {k: v[None] for k, v in problem.prior(draws, seed).items() if k in problem.sites}
    kind = {n: problem.sites[n].kind for n in values}
    prior = {n: v for n, v in values.items() if kind[n] in ("latent", "deterministic")}
    observed = {n: v for n, v in values.items() if kind[n] == "observed"}
    groups = {"prior": site_dataset(problem, prior)}
    return {**groups, "prior_predictive": site_dataset(problem, observed)} if observed else groups


def log_probabilities(
    problem: Problem, tree: xr.DataTree, memory: int | float, *, likelihood: bool
) -> xr.Dataset:
    """Log likelihood by observation, or log prior by latent site, at every draw.

    Both are of the program as written, on the constrained space: a reparametrisation changes how
    the posterior is drawn from and not what the prior is.
    """
    if problem.discrete:
        raise UnsupportedModelError(
            f"log probabilities by site need values of the enumerated sites "
            f"({', '.join(problem.discrete)}); marginalise them by hand for PSIS-LOO"
        )
    kind = "observed" if likelihood else "latent"
    drawn = problem.drawn_discrete
    wanted = tuple(
        n for n, s in problem.sites.items() if s.kind == kind or (not likelihood and n in drawn)
    )
    if not wanted:
        raise UnsupportedModelError(
            "the program has no observed site (its likelihood is a numpyro.factor), so there is no "
            "log likelihood by observation"
        )
    program, written = problem.program, problem.model.fn
    posterior = tree["posterior"]
    latent = [n for n, s in problem.sites.items() if s.kind == "latent" or n in drawn]
    absent = [n for n in latent if n not in posterior.data_vars]
    if absent:
        raise UnsupportedModelError(
            f"log probabilities by site need draws of {', '.join(absent)}, which the method summed "
            "out"
        )
    values = {n: posterior[n].transpose("chain", "draw", ...).values for n in latent}
    lead = values[latent[0]].shape[:2]
    flat = {n: v.reshape(-1, *v.shape[2:]) for n, v in values.items()}

    def one(draw: Any, arrays: Any) -> dict[str, Any]:
        seeded = handlers.seed(written, jax.random.key(0))
        arguments = program.arguments(arrays)
        parts, _ = compute_log_probs(seeded, (), arguments, draw, sum_log_prob=False)
        return {n: parts[n] for n in wanted}

    what = "log likelihood" if likelihood else "log prior"
    found = map_draws(program, ("log_probs", wanted), one, flat, problem.arrays, memory, what)
    return site_dataset(problem, {n: found[n].reshape(*lead, *found[n].shape[1:]) for n in wanted})
