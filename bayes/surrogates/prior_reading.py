"""Draws of all latent sites, from what users hold, as positions that a prior is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bayes.errors import SettingsError, ShapeError, UnsupportedModelError
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.surrogates.joint_priors import REPARAMETRISED
from bayes.surrogates.runtime_prior import PRIOR_DRAWS
from bayes.threefry import seed_key

__all__ = ["positions_of", "require_plain", "values_of_posterior", "values_of_sampler"]

_MOST_DRAWS, _LEAST_DRAWS = 8192, 10
"""Draws that are taken of a posterior at most, and at least for each element."""


def require_plain(reference: Problem) -> None:
    """Refuse a program whose flat vector is not that of its own continuous sites."""
    name = reference.model.name
    if reference.reparametrised:
        sites = ", ".join(reference.reparametrised)
        raise UnsupportedModelError(REPARAMETRISED.format(name, sites))
    discrete = reference.discrete + reference.drawn_discrete
    if discrete:
        raise UnsupportedModelError(
            f"{name} has discrete latent sites ({', '.join(discrete)}): a mixture of normals is a "
            "prior of continuous ones only; give distributions by site"
        )


def values_of_sampler(prior: Callable, reference: Problem, seed: int) -> dict[str, np.ndarray]:
    """Draws of all latent sites by a function from a key to values of them."""
    with double_precision(), jax.numpy_rank_promotion("allow"):
        keys = jax.random.split(seed_key(seed), PRIOR_DRAWS)
        try:
            found = jax.jit(jax.vmap(lambda key: dict(prior(key))))(keys)
        except Exception as error:
            raise SettingsError(
                "the prior is called with a key of JAX and gives a dict of values by latent site, "
                f"in JAX; it failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
    names = [s.name for s in reference.program.latents]
    unknown = [n for n in found if n not in names]
    if unknown:
        raise SettingsError(
            f"the prior gives '{unknown[0]}', which is no latent site of {reference.model.name} "
            f"({', '.join(names)})"
        )
    missing = [n for n in names if n not in found]
    if missing:
        raise SettingsError(f"the prior gives no value of {', '.join(missing)}")
    return {n: np.asarray(v, np.float64) for n, v in found.items()}


def values_of_posterior(posterior: Any, reference: Problem) -> dict[str, np.ndarray]:
    """Draws of all latent sites of a posterior, evenly chosen where there are many."""
    values = {}
    for latent in reference.program.latents:
        try:
            draws = np.asarray(posterior.draws(latent.name), np.float64)
        except KeyError as error:
            raise SettingsError(
                f"the posterior has no draws of '{latent.name}': it is of another model than "
                f"{reference.model.name}"
            ) from error
        values[latent.name] = draws.reshape(-1, *draws.shape[2:])
    count = min(len(v) for v in values.values())
    if count < _LEAST_DRAWS * reference.size:
        raise SettingsError(
            f"the posterior has {count} draws of {reference.size} unknowns; at least "
            f"{_LEAST_DRAWS * reference.size} are needed for a prior"
        )
    kept = np.linspace(0, count - 1, min(count, _MOST_DRAWS)).astype(int)
    return {n: v[kept] for n, v in values.items()}


def positions_of(values: Mapping[str, np.ndarray], reference: Problem) -> np.ndarray:
    """Flat unconstrained positions of draws of all latent sites."""
    for latent in reference.program.latents:
        value = values[latent.name]
        if value.shape[1:] != latent.shape:
            raise ShapeError(
                f"the prior has '{latent.name}' of shape {value.shape[1:]}; the program has "
                f"{latent.shape}"
            )
        if not np.isfinite(value).all():
            raise SettingsError(f"the prior has values of '{latent.name}' that are not finite")
    positions = reference.unconstrain(values, lead=1)
    for latent in reference.program.latents:
        bad = ~np.isfinite(positions[:, latent.start : latent.stop]).all(axis=1)
        if bad.any():
            raise SettingsError(
                f"the prior has values of '{latent.name}' outside of its support, or on its edge, "
                f"in {bad.sum()} of {len(bad)} draws"
            )
    return positions
