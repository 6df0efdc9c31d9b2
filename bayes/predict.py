"""Predictions: the program run forward at each draw, at old or new data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.primitives import Messenger

from bayes.batches import map_draws
from bayes.errors import SettingsError, UnsupportedModelError
from bayes.groups import constant_group, sampled_values, site_dataset
from bayes.matching import Match, match_draws
from bayes.prediction import prediction_at
from bayes.problem import Problem
from bayes.program import Program, Unobserve, is_factor
from bayes.seeds import require_seed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["posterior_predictive", "predict"]


def predict(
    fitted: Problem,
    tree: xr.DataTree,
    new_data: Any,
    seed: int,
    new_groups: str,
    memory: int | float,
) -> xr.DataTree:
    """Posterior predictive draws; see :meth:`bayes.Posterior.predict`."""
    import xarray as xr

    require_seed(seed)
    if new_groups not in ("refuse", "sample"):
        raise SettingsError(f"new_groups is 'refuse' or 'sample', got {new_groups!r}")
    target, matches = fitted, {}
    if new_data is not None:
        target = prediction_at(fitted, new_data, new_groups)
        matches = match_draws(fitted, target, new_groups)
    changed = {n for n, match in matches.items() if not match.same}
    wanted = []
    for name, site in target.sites.items():
        derived = site.kind == "latent" and name not in matches and bool(changed)
        if site.kind in ("observed", "deterministic", "discrete") or name in changed or derived:
            wanted.append(name)
    values = _run(fitted, target, tree, matches, tuple(wanted), seed, memory)
    observed = {n: v for n, v in values.items() if target.sites[n].kind == "observed"}
    other = {n: v for n, v in values.items() if n not in observed}
    if not values:
        raise UnsupportedModelError(
            "there is nothing to predict: the program has no observed and no deterministic site"
        )
    groups = {
        "posterior_predictive": site_dataset(target, observed) if observed else None,
        "predictions": site_dataset(target, other) if other else None,
        "constant_data": constant_group(target),
    }
    return xr.DataTree.from_dict({k: v for k, v in groups.items() if v is not None})


def posterior_predictive(
    fitted: Problem, tree: xr.DataTree, seed: int, memory: int | float
) -> xr.Dataset:
    """Replicates of the observed sites at the fit's data."""
    observed = tuple(n for n, s in fitted.sites.items() if s.kind == "observed")
    if not observed:
        raise UnsupportedModelError(
            "the program has no observed site (its likelihood is a numpyro.factor), so there is "
            "nothing to predict"
        )
    return site_dataset(fitted, _run(fitted, fitted, tree, {}, observed, seed, memory))


class _Fill(Messenger):
    """Handler that puts known elements into the drawn values of sites.

    It has to stand outside of ``trace``, which records a site before handlers inside it have seen
    its drawn value.
    """

    def __init__(self, known: Mapping[str, Any], matches: Mapping[str, Match]) -> None:
        super().__init__(None)
        self.known, self.matches = known, matches

    def postprocess_message(self, msg: Any) -> None:
        """Overwrite what the fit knows of a drawn value."""
        if msg["type"] == "sample" and msg["name"] in self.known:
            place = np.ix_(*self.matches[msg["name"]].place)
            msg["value"] = jnp.asarray(msg["value"]).at[place].set(self.known[msg["name"]])


def _run(
    fitted: Problem,
    target: Problem,
    tree: xr.DataTree,
    matches: Mapping[str, Match],
    wanted: tuple[str, ...],
    seed: int,
    memory: int | float,
) -> dict[str, np.ndarray]:
    """Values of the wanted sites at every draw, of shape (chain, draw, ...)."""
    draws = sampled_values(fitted, tree)
    lead = next(iter(draws.values())).shape[:2]
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in draws.items()}
    keys = np.asarray(
        jax.random.key_data(jax.random.split(jax.random.key(seed), lead[0] * lead[1]))
    )
    one = _forward(fitted.program, target.program, bool(fitted.discrete), matches, wanted)
    key = ("predict", wanted, tuple(sorted(matches.items(), key=lambda item: item[0])))
    if fitted.discrete:
        key = (*key, fitted.program)
    both = (keys, flat), (target.arrays, fitted.arrays if fitted.discrete else {})
    found = map_draws(target.program, key, one, *both, memory, "prediction")
    return {n: found[n].reshape(*lead, *found[n].shape[1:]) for n in wanted if n in found}


def _forward(
    fitted: Program,
    target: Program,
    discrete: bool,
    matches: Mapping[str, Match],
    wanted: tuple[str, ...],
) -> Callable:
    """One run of the target's program at one draw of the fit."""

    def one(draw: Any, arrays: Any) -> dict[str, Any]:
        key, latent = jax.random.wrap_key_data(draw[0]), draw[1]
        new, old = arrays
        if discrete:
            latent = {**latent, **_discrete_values(fitted, latent, key, old)}
        whole, part = {}, {}
        for name, value in latent.items():
            match = matches.get(name)
            if match is None or match.same:
                whole[name] = value
            elif all(match.source):
                taken = jnp.asarray(value)[np.ix_(*match.source)]
                (whole if match.whole else part)[name] = taken
        fn = handlers.seed(handlers.substitute(Unobserve(target.fn), data=whole), key)
        with _Fill(part, matches), jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(fn).get_trace(**target.arguments(new))
        return {
            n: s["value"]
            for n, s in trace.items()
            if n in wanted
            and (s["type"] == "deterministic" or (s["type"] == "sample" and not is_factor(s)))
        }

    return one


def _discrete_values(
    program: Program, latent: Mapping[str, Any], key: Any, arrays: Any
) -> dict[str, Any]:
    """Discrete sites drawn given the continuous ones and the observations of the fit."""
    from numpyro.contrib.funsor import config_enumerate, infer_discrete

    assert program.plate_nesting is not None
    fn = handlers.substitute(config_enumerate(program.fn), data=dict(latent))
    inferred = infer_discrete(
        handlers.seed(fn, key),
        first_available_dim=-program.plate_nesting - 1,
        rng_key=key,
        temperature=1,
    )
    with jax.numpy_rank_promotion("allow"):
        trace = handlers.trace(inferred).get_trace(**program.arguments(arrays))
    return {
        n: s["value"]
        for n, s in trace.items()
        if s["type"] == "sample" and not s["is_observed"] and n not in latent
    }
