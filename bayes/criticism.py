"""Predictive accuracy: leave-one-out, and comparison of models on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.pointwise import observations_of
from bayes.errors import BayesError, DataError, ModelError, SettingsError, UnsupportedModelError

if TYPE_CHECKING:
    import pandas as pd

    from bayes.posterior import Posterior

__all__ = ["compare", "loo"]


def loo(posterior: Posterior, var_name: str | None = None, **options: Any) -> Any:
    """PSIS-LOO of a posterior; the log likelihood is computed where it is not there yet.

    Observations that the program masks are left out.

    Parameters
    ----------
    posterior : Posterior
        The posterior.
    var_name : str, optional
        The observed site, where there are several.
    **options
        Go to ``arviz_stats.loo``.

    Returns
    -------
    arviz_stats.ELPDData

    Raises
    ------
    ModelError
        Where there is no log likelihood and no model to compute it with, or where it is given
        draws of discrete sites.
    DataError
        Where the log likelihood of an observation is not finite: names observation and site.
    SettingsError
        Where there are several observed sites and ``var_name`` does not name one.
    """
    import xarray as xr
    from arviz_stats.loo import loo as arviz_loo

    drawn = posterior.problem.drawn_discrete if posterior.has_model else ()
    if drawn:
        raise UnsupportedModelError(
            f"loo: the log likelihood at draws of discrete sites ({', '.join(drawn)}) has few "
            "values, whose tail no Pareto distribution fits; sum these sites out, with a mixture "
            "or with method='nuts'"
        )
    if "log_likelihood" not in posterior.data.children:
        try:
            posterior.extend("log_likelihood")
        except BayesError as error:
            raise ModelError(
                "loo needs the group log_likelihood, which post.extend('log_likelihood') adds: "
                f"{error}"
            ) from error
    sites = posterior.data["log_likelihood"].to_dataset()
    if var_name is None and len(sites.data_vars) > 1:
        raise SettingsError(
            f"there are several observed sites, {', '.join(map(str, sites.data_vars))}: name one "
            "with var_name="
        )
    name = next(iter(sites.data_vars)) if var_name is None else var_name
    if name not in sites.data_vars:
        raise SettingsError(
            f"no observed site '{name}'; there are {', '.join(map(str, sites.data_vars))}"
        )
    kept = observations_of(sites[name])
    tree = xr.DataTree.from_dict(
        {
            **{f"/{n}": g for n, g in posterior.data.children.items() if n != "log_likelihood"},
            "/log_likelihood": kept.to_dataset(name=name),
        }
    )
    return arviz_loo(tree, var_name=name, **options)


def compare(
    posteriors: Mapping[str, Posterior], var_name: str | None = None, **options: Any
) -> pd.DataFrame:
    """Compare models of the same observations by PSIS-LOO.

    Parameters
    ----------
    posteriors : mapping
        Posteriors by name.
    var_name : str, optional
        The observed site, where there are several.
    **options
        Go to ``arviz_stats.compare``.

    Returns
    -------
    pandas.DataFrame
        One row a model, best first, with stacking weights.

    Raises
    ------
    DataError
        Where the posteriors are of different observations.
    """
    from arviz_stats.loo import compare as arviz_compare

    if len(posteriors) < 2:
        raise SettingsError("compare needs at least two posteriors")
    names = list(posteriors)
    first = _observations(posteriors[names[0]])
    for name in names[1:]:
        other = _observations(posteriors[name])
        if sorted(a.shape for a in first) != sorted(a.shape for a in other):
            raise DataError(
                f"'{names[0]}' and '{name}' have different numbers of observations: "
                f"{[a.shape for a in first]} and {[a.shape for a in other]}"
            )
        if not all(any(_same(a, b) for b in other) for a in first):
            raise DataError(
                f"'{names[0]}' and '{name}' were fitted to different observations; predictive "
                "accuracies are comparable on the same data only"
            )
    scores = {name: loo(posterior, var_name) for name, posterior in posteriors.items()}
    return arviz_compare(scores, **options)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    # A missing value that both models mask is the same observation.
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")


def _observations(posterior: Posterior) -> list[np.ndarray]:
    if "observed_data" not in posterior.data.children:
        raise DataError("a posterior without observed data cannot be compared")
    return [v.values for v in posterior.data["observed_data"].data_vars.values()]
