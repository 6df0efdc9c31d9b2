"""Predictions: the program run forward at each draw, at old or new data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpyro import handlers
from numpyro.primitives import Messenger

from bayes.batches import batch_size, require_memory
from bayes.data import Data
from bayes.errors import SettingsError, ShapeError
from bayes.model import Model
from bayes.problem import Problem

__all__ = ["predict", "predictive_values", "sampled_values"]


class _Extend(Messenger):
    """Handler that draws a site from its prior and puts known values in place of their levels."""

    def __init__(self, fn: Callable, values: Mapping[str, Any]) -> None:
        super().__init__(fn)
        self.values = values

    def postprocess_message(self, msg: Any) -> None:
        """Overwrite the leading levels of a drawn value with the draws of the fit."""
        if msg["type"] == "sample" and not msg["is_observed"] and msg["name"] in self.values:
            known = self.values[msg["name"]]
            place = tuple(slice(0, n) for n in np.shape(known))
            msg["value"] = jnp.asarray(msg["value"]).at[place].set(known)


def sampled_values(problem: Problem, tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Draws of the sampled sites, of shape (chain, draw, ...)."""
    found = {}
    for latent in problem.program.latents:
        for group in ("posterior", "auxiliary"):
            if group in tree.children and latent.name in tree[group].data_vars:
                variable = tree[group][latent.name]
                found[latent.name] = variable.transpose("chain", "draw", ...).values
                break
    return found


def predict(
    problem: Problem,
    tree: xr.DataTree,
    new_data: Any,
    seed: int,
    new_groups: str,
    memory: float,
) -> xr.DataTree:
    """Posterior predictive draws; see :meth:`bayes.Posterior.predict`."""
    if new_groups not in ("refuse", "sample"):
        raise SettingsError(f"new_groups is 'refuse' or 'sample', got {new_groups!r}")
    if new_data is None:
        data, target = problem.data, problem
    else:
        data = _new_data(problem, new_data, new_groups)
        target = _rebind(problem, data)
    values, drawn = predictive_values(target, tree, data, seed, memory, fitted=problem)
    from bayes.groups import constant_group, site_dataset

    kinds = {n: s.kind for n, s in target.sites.items()}
    observed = {n: v for n, v in values.items() if kinds.get(n) == "observed"}
    other = {
        n: v for n, v in values.items() if kinds.get(n) == "deterministic" or n in drawn
    }
    groups: dict[str, Any] = {"posterior_predictive": site_dataset(target, observed)}
    if other:
        groups["predictions"] = site_dataset(target, other)
    constant = constant_group(target)
    if constant is not None:
        groups["constant_data"] = constant
    return xr.DataTree.from_dict(groups)


def _new_data(problem: Problem, new_data: Any, new_groups: str) -> Data:
    """New data by the fit's schema; what was observed may be absent."""
    signature = problem.model.signature
    if isinstance(new_data, Mapping):
        missing = [
            n
            for n in signature.required
            if n not in new_data and n in problem.observed_arguments
        ]
        kept = {n: problem.data.arguments[n] for n in missing}
        statics = {
            n: v
            for n, v in problem.data.statics.items()
            if n not in new_data and n in signature.required
        }
        new_data = {**statics, **kept, **new_data}
    return Data.read(
        new_data, signature, levels=problem.data.levels, new_groups=new_groups
    )


def _rebind(problem: Problem, data: Data) -> Problem:
    """The same program at new data: nothing is observed there."""
    model = Model(
        problem.model.fn,
        dims=problem.model.dims,
        coords={
            d: c for d, c in problem.model.coords.items() if len(c) == len(problem.coords[d])
        }
        if problem.model.coords
        else None,
        reparam=problem.model.reparam,
        allow_prior=True,
    )
    try:
        return Prediction(model, data, problem)
    except ShapeError:
        model.coords = {}
        return Prediction(model, data, problem)


class Prediction(Problem):
    """A problem at new data, where observed sites are free.

    Parameters
    ----------
    model : Model
        The program.
    data : Data
        New data.
    fitted : Problem
        The problem that was fitted; its kinds of sites hold here.
    """

    def __init__(self, model: Model, data: Data, fitted: Problem) -> None:
        self.fitted = fitted
        super().__init__(model, data, need_observed=False)

    def _read(self, need_observed: bool) -> None:
        import dataclasses

        from bayes.dims import site_coords, site_dims
        from bayes.errors import DataError
        from bayes.program import Unobserve
        from bayes.reparam import apply_reparam
        from bayes.structure import read_sites, trace_program

        for name, column in self.data.columns.items():
            if len(column.missing) and name not in self.fitted.observed_arguments:
                raise DataError(self.data.missing_text(name))
        on_device = Data(
            {**self.data.arguments, **jax.tree.map(jnp.asarray, self.data.arrays)},
            self.data.columns,
            self.data.coords,
        )
        fn = Unobserve(self.model.fn)
        trace = trace_program(fn, on_device, 0)
        observed = {n for n, s in self.fitted.sites.items() if s.kind == "observed"}
        self.sites = {
            n: dataclasses.replace(s, kind="observed") if n in observed else s
            for n, s in read_sites(trace).items()
        }
        self.observed_arguments = self.fitted.observed_arguments
        self.frozen = []
        self.dims = site_dims(self.sites, self.model.dims)
        self.coords = site_coords(self.sites, self.dims, self.data, self.model.coords)
        base, self.reparametrised = apply_reparam(
            self.model.fn, self._reparam(), on_device, trace, self.sites
        )
        if self.reparametrised:
            trace = trace_program(Unobserve(base), on_device, 0)
        trace = {
            n: {**s, "is_observed": True} if n in observed else s for n, s in trace.items()
        }
        self._build(base, trace)

    def _reparam(self) -> Any:
        # The fit has chosen; new data must not choose otherwise.
        if self.model.reparam != "auto":
            return self.model.reparam
        from numpyro.infer.reparam import LocScaleReparam

        return {n: LocScaleReparam(centered=0) for n in self.fitted.reparametrised} or None


def predictive_values(
    target: Problem,
    tree: xr.DataTree,
    data: Data,
    seed: int,
    memory: float,
    fitted: Problem | None = None,
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Run the program forward at every draw.

    Parameters
    ----------
    target : Problem
        The program at the data to predict at.
    tree : xarray.DataTree
        Draws.
    data : Data
        The data to predict at.
    seed : int
        Seed.
    memory : float
        Most bytes.
    fitted : Problem, optional
        The problem that was fitted.

    Returns
    -------
    values : dict
        Every site's values, of shape (chain, draw, ...).
    drawn : set of str
        Latent sites that were drawn anew, in whole or in part.
    """
    fitted = target if fitted is None else fitted
    values = sampled_values(fitted, tree)
    keep, drawn = _match_shapes(values, target, data, fitted)
    program = target.program

    def one(k: Any, latent: Any, arrays: Any) -> Any:
        if target is fitted and target.discrete:
            latent = {**latent, **_discrete_values(program, latent, k, arrays)}
        handler = _partly(drawn) if drawn else None
        return program.simulate(latent, k, arrays, handler)

    lead = next(iter(values.values())).shape[:2]
    count = lead[0] * lead[1]
    flat = {k: v.reshape(count, *v.shape[2:]) for k, v in keep.items()}
    keys = jax.random.split(jax.random.key(seed), count)
    first = {k: v[0] for k, v in flat.items()}
    shapes = jax.eval_shape(one, keys[0], first, target.arrays)
    wanted = {n for n in shapes if n in target.sites and (n not in values or n in drawn)}
    per_draw = sum(
        int(np.prod(shapes[n].shape, dtype=int)) * shapes[n].dtype.itemsize for n in wanted
    )
    require_memory(per_draw * count, memory, "prediction")
    step = batch_size(per_draw, memory - per_draw * count, count)
    run = program.once(
        ("predict", tuple(sorted(drawn)), min(step, 64), target is fitted),
        lambda: jax.jit(
            lambda k, v, a: {
                n: x
                for n, x in jax.lax.map(
                    lambda pair: one(pair[0], pair[1], a), (k, v), batch_size=min(step, 64)
                ).items()
                if n in wanted
            }
        ),
    )
    out: dict[str, np.ndarray] = {}
    for begin in range(0, count, step):
        part = {k: v[begin : begin + step] for k, v in flat.items()}
        found = run(keys[begin : begin + step], part, target.arrays)
        for name, value in found.items():
            value = np.asarray(value)
            target_array = out.setdefault(name, np.empty((count, *value.shape[1:]), value.dtype))
            target_array[begin : begin + step] = value
    return {n: v.reshape(*lead, *v.shape[1:]) for n, v in out.items()}, drawn


def _match_shapes(
    values: Mapping[str, np.ndarray], target: Problem, data: Data, fitted: Problem
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Draws to hold fixed at the target's shapes, and the sites to draw anew.

    A site whose size follows the levels of a category keeps the levels of the fit; one whose size
    follows the rows is drawn anew, because new rows are new units.
    """
    keep, drawn = {}, set()
    shapes = {s.name: s.shape for s in target.program.latents}
    for name, value in values.items():
        shape = shapes.get(name)
        if shape is None or shape == value.shape[2:]:
            keep[name] = value
            continue
        grown = len(shape) == value.ndim - 2 and all(
            new == old or (new > old and _is_level_count(new, old, data, fitted))
            for new, old in zip(shape, value.shape[2:], strict=True)
        )
        if grown:
            keep[name] = value
        drawn.add(name)
    return keep, drawn


def _is_level_count(new: int, old: int, data: Data, fitted: Problem) -> bool:
    before, after = fitted.data.levels, data.levels
    return any(len(before[n]) == old and len(after[n]) == new for n in after if n in before)


def _partly(drawn: set[str]) -> Callable:
    def handler(fn: Callable, values: Mapping[str, Any]) -> Callable:
        whole = {n: v for n, v in values.items() if n not in drawn}
        part = {n: v for n, v in values.items() if n in drawn}
        return _Extend(handlers.substitute(fn, data=whole), part)

    return handler


def _discrete_values(program: Any, latent: Any, key: Any, arrays: Any) -> dict[str, Any]:
    """Discrete sites drawn given the continuous ones and the observations."""
    from numpyro.contrib.funsor import config_enumerate, infer_discrete

    fn = handlers.substitute(config_enumerate(program.fn), data=dict(latent))
    plates = -program.plate_nesting - 1
    inferred = infer_discrete(
        handlers.seed(fn, key), first_available_dim=plates, rng_key=key, temperature=1
    )
    with jax.numpy_rank_promotion("allow"):
        trace = handlers.trace(inferred).get_trace(**program.arguments(arrays))
    return {
        n: s["value"]
        for n, s in trace.items()
        if s["type"] == "sample" and not s["is_observed"] and n not in latent
    }
