"""Observed sites with their replicates, and what kind of data they are."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from bayes.diagnostics.pointwise import masked_observations
from bayes.diagnostics.report.contents import Case
from bayes.diagnostics.report.sections.elements import card_sites

__all__ = ["Kind", "Observed", "data_kind", "observed_sites", "predictive_p"]

Kind = Literal["binary", "categorical", "count", "continuous"]
_MOST_DRAWS = 1000
_FEW_VALUES = 7


@dataclasses.dataclass(frozen=True)
class Observed:
    """An observed site with its replicates.

    Parameters
    ----------
    name : str
        The site.
    kind : {"binary", "categorical", "count", "continuous"}
        What kind of data it is.
    values : array of shape (observation,)
        What was observed, without what is missing or masked.
    replicates : array of shape (draw, observation)
        What the model predicts; some of the draws where there are many.
    left_out : int
        Observations that are missing or masked.
    """

    name: str
    kind: Kind
    values: np.ndarray
    replicates: np.ndarray
    left_out: int


def observed_sites(case: Case, group: str) -> list[Observed]:
    """Observed sites that a group has replicates of.

    Parameters
    ----------
    case : Case
        Its groups observed_data and ``group``; and log_likelihood, which tells what is masked.
    group : {"prior_predictive", "posterior_predictive"}
        Where the replicates are.

    Returns
    -------
    list of Observed
        Without sites that have no observation, or hardly a finite replicate.
    """
    observed, predicted = (case.tree[g].to_dataset() for g in ("observed_data", group))
    found = []
    for key, variable in observed.data_vars.items():
        name = str(key)
        if name not in predicted.data_vars:
            continue
        values = np.asarray(variable.values, float)
        replicates = predicted[name].transpose("chain", "draw", *variable.dims).values
        replicates = replicates.reshape(-1, values.size)
        replicates = replicates[:: -(-len(replicates) // _MOST_DRAWS)].astype(float)
        kept = np.isfinite(values) & ~_masked(case, name, values.shape)
        replicates = replicates[:, kept.ravel()]
        replicates = replicates[np.isfinite(replicates).all(axis=1)]
        if not kept.any() or len(replicates) < 20:
            continue
        distribution = card_sites(case).get(name, {}).get("distribution", "")
        kind = data_kind(values[kept], replicates, distribution)
        found.append(Observed(name, kind, values[kept], replicates, int((~kept).sum())))
    return found


def _masked(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "log_likelihood" in case.tree.children:
        likelihood = case.tree["log_likelihood"].to_dataset()
        if name in likelihood.data_vars:
            masked = masked_observations(likelihood[name])
            if masked.shape == shape:
                return masked
    return np.zeros(shape, bool)


def data_kind(values: np.ndarray, replicates: np.ndarray, distribution: str = "") -> Kind:
    """What kind of data a site has.

    Parameters
    ----------
    values, replicates : array
        What was observed, and what the model predicts; finite.
    distribution : str
        Name of the site's distribution, which tells counts from codes of categories where both
        are possible.

    Returns
    -------
    {"binary", "categorical", "count", "continuous"}
        Integers below 0 count as continuous. Without a distribution, up to seven different
        integers count as categories.
    """
    both = (np.asarray(values, float), np.asarray(replicates, float))
    if any((np.rint(part) != part).any() for part in both):
        return "continuous"
    low, high = min(part.min() for part in both), max(part.max() for part in both)
    if low < 0:
        return "continuous"
    if distribution.startswith("Bernoulli") or high <= 1:
        return "binary"
    if distribution.startswith("Categorical") or distribution.startswith("Ordered"):
        return "categorical"
    few = high - low < 50 and len(np.union1d(*map(np.unique, both))) <= _FEW_VALUES
    return "categorical" if few and not distribution else "count"


def predictive_p(observed: float, replicates: np.ndarray) -> float:
    """Share of replicates of a statistic above the observed one, those equal to it by half.

    Parameters
    ----------
    observed : float
        The statistic of the data.
    replicates : array of shape (draw,)
        The statistic of each replicate.

    Returns
    -------
    float
        Near 0 where the data have more than the model predicts, near 1 where they have less.
    """
    return float((replicates > observed).mean() + 0.5 * (replicates == observed).mean())
