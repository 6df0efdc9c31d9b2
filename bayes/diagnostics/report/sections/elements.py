"""Sites and elements of a posterior, as the sections go through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.convergence import element_labels
from bayes.diagnostics.report.contents import Case

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["card_sites", "draws_by_element", "element_names", "hyperparameters", "sampled_sites"]


def card_sites(case: Case) -> dict[str, Mapping[str, Any]]:
    """What the card says of each site, by name; empty where it says nothing."""
    return {site["name"]: site for site in case.card.get("model", {}).get("sites") or ()}


def sampled_sites(case: Case) -> tuple[str, ...]:
    """Sites of the posterior that have a prior; all of them where the card does not tell."""
    names = tuple(map(str, case.tree["posterior"].data_vars))
    card = card_sites(case)
    kinds = ("latent", "discrete")
    return tuple(n for n in names if not card or card.get(n, {}).get("kind") in kinds)


def hyperparameters(case: Case) -> tuple[str, ...]:
    """Sampled sites that the distribution of another sampled site depends on."""
    card, sampled = card_sites(case), sampled_sites(case)
    parents = {p for name in sampled for p in card.get(name, {}).get("parents") or ()}
    return tuple(name for name in sampled if name in parents)


def draws_by_element(draws: xr.DataArray) -> np.ndarray:
    """Draws of shape (draw, element), of all chains."""
    values = draws.transpose("chain", "draw", ...).values
    return values.reshape(values.shape[0] * values.shape[1], -1).astype(float)


def element_names(draws: xr.DataArray) -> list[str]:
    """Names of a site's elements, such as ``theta[3]``."""
    shape = draws.transpose("chain", "draw", ...).shape[2:]
    return element_labels(str(draws.name), shape, np.ones(int(np.prod(shape)), bool))
