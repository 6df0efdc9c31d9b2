"""Leave-one-out of an observed site by Pareto-smoothed importance sampling."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.convergence import element_labels
from bayes.diagnostics.pointwise import masked_observations, observations_of
from bayes.diagnostics.report.contents import Case
from bayes.diagnostics.report.sections.elements import card_sites
from bayes.diagnostics.report.sections.observations import data_kind
from bayes.diagnostics.report.sections.pit import evenly
from bayes.diagnostics.report.sections.wording import lacking
from bayes.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LeftOut", "leave_out", "loo_pit"]

_MOST_OBSERVATIONS, _PIT_DRAWS = 10_000, 1000


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Leave-one-out of an observed site.

    Parameters
    ----------
    site : str
        The site.
    total : int
        Number of observations that are not masked.
    names : list of str
        Of those that were left out: all, or many evenly chosen.
    places : array of int
        Where these are among the observations that are not masked.
    elpd, se, p : float
        Expected log predictive density, its standard error, effective number of parameters.
    threshold : float
        Pareto k-hat above which an observation's value is not to be relied on.
    khat, elpd_i : array of shape (observation,)
        By observation.
    log_weights : array of shape (chain, draw, observation)
        Smoothed importance weights, normalised.
    """

    site: str
    total: int
    names: list[str]
    places: np.ndarray
    elpd: float
    se: float
    p: float
    threshold: float
    khat: np.ndarray
    elpd_i: np.ndarray
    log_weights: np.ndarray

    @property
    def high(self) -> np.ndarray:
        """Places of the observations whose k-hat is above the threshold, worst first."""
        order = np.argsort(-self.khat, kind="stable")
        return order[self.khat[order] > self.threshold]


def leave_out(values: xr.DataArray, efficiency: float) -> LeftOut:
    """PSIS-LOO of one site, its weights kept for what else is computed from them.

    Parameters
    ----------
    values : xarray.DataArray of dims (chain, draw, ...)
        Log likelihood by observation.
    efficiency : float
        Effective sample size by number of draws.

    Returns
    -------
    LeftOut

    Raises
    ------
    DataError
        Where it cannot be computed: says why.
    """
    import arviz_stats
    import xarray as xr
    from arviz_stats.base import array_stats

    kept = observations_of(values)
    if kept.size == kept.sizes["chain"] * kept.sizes["draw"]:
        raise DataError(
            f"'{values.name}' is one joint observation: leave-one-out needs observations that are "
            "independent given the parameters"
        )
    if kept.size / kept.shape[-1] < 25 or kept.sizes["chain"] * kept.sizes["draw"] < 100:
        raise DataError("fewer than 100 draws are too few to leave observations out")
    shape = values.transpose("chain", "draw", ...).shape[2:]
    names = element_labels(str(values.name), shape, ~masked_observations(values).ravel())
    flat = kept.values.reshape(*kept.shape[:2], -1)
    places = evenly(flat.shape[2], _MOST_OBSERVATIONS)
    flat, names = flat[..., places], [names[i] for i in places]
    # The function takes log likelihoods, which are minus the log importance ratios.
    smooth: Any = array_stats.psislw
    weights, khat = smooth(np.moveaxis(flat, 2, 0), r_eff=efficiency, axis=(-2, -1))
    coords = {"chain": kept["chain"], "draw": kept["draw"]}
    dims = ("observation", "chain", "draw")
    likelihood = xr.DataArray(np.moveaxis(flat, 2, 0), coords, dims, name=values.name)
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset(coords=coords), "log_likelihood": likelihood.to_dataset()}
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter")
        loo: Any = arviz_stats.loo(
            tree,
            pointwise=True,
            reff=efficiency,
            log_weights=likelihood.copy(data=weights),
            pareto_k=xr.DataArray(khat, dims="observation"),
        )
    return LeftOut(
        str(values.name),
        kept[0, 0].size,
        names,
        places,
        float(loo.elpd),
        float(loo.se),
        float(loo.p),
        float(loo.good_k),
        khat,
        loo.elpd_i.values,
        np.moveaxis(weights, 0, 2),
    )


def loo_pit(case: Case, found: LeftOut) -> np.ndarray | None:
    """LOO-PIT of continuous data, where replicates and log likelihoods are of the same elements.

    Of at most 1000 observations and some 1000 draws: ArviZ fits two tails for each.

    Parameters
    ----------
    case : Case
        Groups posterior_predictive, observed_data and log_likelihood.
    found : LeftOut
        The site.

    Returns
    -------
    array of shape (observation,) or None
        None where it does not apply.
    """
    import arviz_stats  # noqa: F401  registers the accessor
    import xarray as xr

    if lacking(case, "posterior_predictive", "observed_data"):
        return None
    groups = ("posterior_predictive", "observed_data", "log_likelihood")
    replicated, observed, likelihood = (case.tree[g].to_dataset() for g in groups)
    if found.site not in replicated.data_vars or found.site not in observed.data_vars:
        return None
    values, masked = observed[found.site].values, masked_observations(likelihood[found.site])
    predicted = replicated[found.site].transpose("chain", "draw", ...).values
    weights = found.log_weights
    if masked.shape != values.shape or predicted.shape[:2] != weights.shape[:2]:
        return None
    step = -(-predicted.shape[0] * predicted.shape[1] // _PIT_DRAWS)
    left_out = np.flatnonzero(~masked.ravel())[found.places]
    known = np.flatnonzero(np.isfinite(values.ravel()[left_out]))
    known = known[evenly(len(known))]
    values = values.ravel()[left_out[known]]
    predicted = predicted.reshape(-1, masked.size)[::step, left_out[known]]
    weights = weights.reshape(-1, weights.shape[-1])[::step, known]
    distribution = card_sites(case).get(found.site, {}).get("distribution", "")
    if not len(values) or not np.isfinite(predicted).all():
        return None
    if data_kind(values, predicted, distribution) != "continuous":
        return None
    weights = weights - np.logaddexp.reduce(weights, axis=0)
    dims = ("draw", "observation")
    pit, _ = xr.DataArray(predicted, dims=dims).azstats.loo_pit(
        y_obs=xr.DataArray(values, dims="observation"),
        log_weights=xr.DataArray(weights, dims=dims),
        sample_dims=["draw"],
        pareto_pit=True,
    )
    return pit.values
