"""Predictive accuracy: leave-one-out, and comparison of models on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.errors import BayesError, DataError, ModelError

if TYPE_CHECKING:
    import pandas as pd

    from bayes.posterior import Posterior

__all__ = ["compare", "loo"]


def loo(posterior: Posterior, **options: Any) -> Any:
    """PSIS-LOO of a posterior; the log likelihood is computed where it is not there yet.

    Raises
    ------
    ModelError
        Where there is no log likelihood and no model to compute it with.
    DataError
        Where the log likelihood of an observation is not finite: names observation and site.
    """
    import arviz_stats

    if "log_likelihood" not in posterior.data.children:
        try:
            posterior.extend("log_likelihood")
        except BayesError as error:
            raise ModelError(
                f"loo needs the group log_likelihood: post.extend('log_likelihood') adds it, {error}"
            ) from error
    for name, variable in posterior.data["log_likelihood"].data_vars.items():
        values = variable.transpose("chain", "draw", ...).values
        bad = ~np.isfinite(values).all(axis=(0, 1))
        if np.any(bad):
            where = np.argwhere(np.atleast_1d(bad))[:3]
            shown = ", ".join(str(tuple(map(int, w)) if len(w) > 1 else int(w[0])) for w in where)
            raise DataError(
                f"loo: the log likelihood of '{name}' is not finite at observation {shown} "
                f"({int(bad.sum())} in all)"
            )
    return arviz_stats.loo(posterior.data, **options)


def compare(posteriors: Mapping[str, Posterior], **options: Any) -> pd.DataFrame:
    """Compare models of the same observations by PSIS-LOO.

    Parameters
    ----------
    posteriors : mapping
        Posteriors by name.
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
    import arviz_stats

    if len(posteriors) < 2:
        raise DataError("compare needs at least two posteriors")
    names = list(posteriors)
    first = _observations(posteriors[names[0]])
    for name in names[1:]:
        other = _observations(posteriors[name])
        if sorted(a.shape for a in first) != sorted(a.shape for a in other):
            raise DataError(
                f"'{names[0]}' and '{name}' have different numbers of observations: "
                f"{[a.shape for a in first]} and {[a.shape for a in other]}"
            )
        if not all(any(np.array_equal(a, b) for b in other) for a in first):
            raise DataError(
                f"'{names[0]}' and '{name}' were fitted to different observations; predictive "
                "accuracies are comparable on the same data only"
            )
    scores = {name: loo(posterior) for name, posterior in posteriors.items()}
    return arviz_stats.compare(scores, **options)


def _observations(posterior: Posterior) -> list[np.ndarray]:
    if "observed_data" not in posterior.data.children:
        raise DataError("a posterior without observed data cannot be compared")
    return [v.values for v in posterior.data["observed_data"].data_vars.values()]
