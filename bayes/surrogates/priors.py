"""Priors that are changed at run time, from whatever users hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist

from bayes.errors import SettingsError
from bayes.problem import Problem
from bayes.surrogates.fitting import fit_mixture
from bayes.surrogates.joint_priors import JointPrior
from bayes.surrogates.mixtures import Mixture
from bayes.surrogates.prior_reading import (
    positions_of,
    require_plain,
    values_of_posterior,
    values_of_sampler,
)
from bayes.surrogates.runtime_prior import RuntimePrior
from bayes.surrogates.site_priors import SitePriors

__all__ = ["JointPrior", "RuntimePrior", "SitePriors", "as_runtime_prior"]


def as_runtime_prior(prior: Any, reference: Problem, components: int, seed: int) -> RuntimePrior:
    """A prior from what users hold.

    Parameters
    ----------
    prior : mapping, Mixture, callable, Posterior or RuntimePrior
        Distributions by site; a mixture on the flat unconstrained space; a function from a key to
        values of all latent sites, in JAX; or a posterior of the same model, that becomes the
        prior of what comes next.
    reference : Problem
        The model, bound to data.
    components : int
        Components of a mixture that is fitted to draws.
    seed : int
        Seed of the draws and of the fit.

    Returns
    -------
    RuntimePrior

    Raises
    ------
    SettingsError, ShapeError
        What is missing, outside of its support or not finite, by site.
    UnsupportedModelError
        A prior of all sites for a reparametrised program.
    """
    if isinstance(prior, RuntimePrior):
        return prior
    if isinstance(prior, Mapping):
        found = SitePriors(dict(prior))
        found._check(reference.model, reference.data)
        return found
    is_posterior = hasattr(prior, "draws") and hasattr(prior, "data")
    known = isinstance(prior, Mixture) or is_posterior or callable(prior)
    if isinstance(prior, dist.Distribution) or not known:
        raise SettingsError(
            "a prior is a mapping from site to distribution, a Mixture, a function from a key to "
            f"values of all latent sites or a Posterior; got {type(prior).__name__}"
        )
    require_plain(reference)
    if isinstance(prior, Mixture):
        return JointPrior(reference.program.latents, prior)
    if is_posterior:
        values = values_of_posterior(prior, reference)
    else:
        values = values_of_sampler(prior, reference, seed)
    positions = positions_of(values, reference)
    mixture = fit_mixture(positions, components, np.random.default_rng(seed))
    return JointPrior(reference.program.latents, mixture)
