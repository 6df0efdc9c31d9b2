"""The user's own posterior predictive check: a statistic of the observations and of replicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.compilation import computing
from bayes.errors import DataError, ModelError, SettingsError, ShapeError, UnsupportedModelError
from bayes.predict import posterior_predictive
from bayes.seeds import require_seed
from bayes.structure import trace_program
from bayes.supports import masked_out

if TYPE_CHECKING:
    import xarray as xr

    from bayes.posterior import Posterior

__all__ = ["STATISTICS", "PredictiveCheck", "check"]

SMALL = 0.01
"""P-value below which the model does not reproduce the statistic."""

_AT_ONCE = 2**26
"""Bytes of replicates that are held at once."""
_MEMORY = 2**30


def _sd(x: np.ndarray) -> Any:
    return np.sqrt(np.square(x - x.mean()).sum() / (x.size - 1))


def _skew(x: np.ndarray) -> Any:
    centred = x - x.mean()
    return (centred**3).mean() / np.square(centred).mean() ** 1.5


STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean,
    "sd": _sd,
    "min": np.min,
    "max": np.max,
    "median": np.median,
    "zeros": lambda x: np.mean(x == 0),
    "skew": _skew,
}
"""Statistics that have a name; "zeros" is the share of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """A statistic of the observations beside the same of data that the fitted model makes.

    Parameters
    ----------
    name : str
        Name of the statistic.
    site : str
        The observed site.
    observed : float
        The statistic T(y) of the observations.
    replicated : xarray.DataArray of dims (chain, draw)
        The statistic T(y_rep) of one replicate of them for each posterior draw.

    References
    ----------
    Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized
    discrepancies.
    """

    name: str
    site: str
    observed: float
    replicated: xr.DataArray

    @property
    def p_value(self) -> float:
        """Two-sided posterior predictive p-value, min(1, 2 min(P(T >= t), P(T <= t))).

        T is the statistic of a replicate and t that of the observations; both probabilities are
        shares of the replicates, and count those equal to t. Under a right model it is about
        uniform for a statistic that the fit does not follow; the data being used twice, small
        values are rarer the more the fit does.
        """
        values = self.replicated.values
        above, below = np.mean(values >= self.observed), np.mean(values <= self.observed)
        return min(1.0, 2.0 * float(min(above, below)))

    @property
    def ok(self) -> bool:
        """Whether the p-value is at least 0.01."""
        return self.p_value >= SMALL

    def __repr__(self) -> str:
        low, middle, high = np.quantile(self.replicated.values, [0.05, 0.5, 0.95])
        verdict = "ok" if self.ok else "not reproduced by the model"
        return (
            f"PredictiveCheck of {self.name} of '{self.site}': {self.observed:.4g} observed, "
            f"{middle:.4g} replicated (90 % between {low:.4g} and {high:.4g}), "
            f"p = {self.p_value:.3g}: {verdict}"
        )


def check(
    posterior: Posterior,
    statistic: str | Callable[[Any], Any],
    site: str | None,
    seed: int,
    name: str | None,
) -> PredictiveCheck:
    """Compare a statistic of observations and replicates; see :meth:`bayes.Posterior.check`."""
    import xarray as xr

    require_seed(seed)
    function, label = _named(statistic, name)
    site = _observed_site(posterior, site)
    observed = posterior.data["observed_data"].to_dataset()[site].values
    there = ~_missing(posterior, site, observed)
    if not there.any():
        raise DataError(f"every observation of '{site}' is missing")

    def value(data: np.ndarray, dtype: Any, whose: str) -> float:
        # A copy: a statistic may sort its argument in place.
        whole = np.array(data, dtype) if there.all() else data[there].astype(dtype)
        return _evaluate(function, label, whole, f"{whose} of '{site}'")

    found, number, dtype = [], np.nan, None
    for part in _replicates(posterior, site, seed):
        if part.shape[2:] != observed.shape:
            raise ShapeError(
                f"replicates of '{site}' have shape {part.shape[2:]}, the observations "
                f"{observed.shape}: post.extend('posterior_predictive') makes them anew"
            )
        if dtype is None:
            dtype = np.result_type(observed, part, np.int64)  # small integers would overflow
            number = value(observed, dtype, "the observations")
        begin = sum(f.shape[1] for f in found)
        found.append(
            np.array(
                [
                    [
                        value(data, dtype, f"the replicate at chain {chain}, draw {begin + draw}")
                        for draw, data in enumerate(line)
                    ]
                    for chain, line in enumerate(part)
                ]
            )
        )
    values = np.concatenate(found, axis=1)
    coords = {d: np.arange(n) for d, n in zip(("chain", "draw"), values.shape, strict=True)}
    replicated = xr.DataArray(values, coords, dims=("chain", "draw"), name=label)
    return PredictiveCheck(label, site, number, replicated)


def _named(
    statistic: str | Callable[[Any], Any], name: str | None
) -> tuple[Callable[[Any], Any], str]:
    """The statistic as a function, and what it is called."""
    if isinstance(statistic, str):
        if statistic not in STATISTICS:
            raise SettingsError(
                f"no statistic '{statistic}'; there are {', '.join(STATISTICS)}, and any function "
                "from an array to a number"
            )
        return STATISTICS[statistic], name or statistic
    if not callable(statistic):
        raise SettingsError(
            "statistic is a function from an array to a number, or one of "
            f"{', '.join(STATISTICS)}; got {statistic!r}"
        )
    own = getattr(statistic, "__name__", "statistic")
    return statistic, name or ("statistic" if own == "<lambda>" else own)


def _observed_site(posterior: Posterior, site: str | None) -> str:
    tree = posterior.data
    sites = list(map(str, tree["observed_data"].data_vars)) if "observed_data" in tree else []
    if not sites:
        raise UnsupportedModelError(
            "the posterior has no observed site (a likelihood that is a numpyro.factor is none), "
            "so there is nothing to compare replicates with"
        )
    if site is None and len(sites) > 1:
        raise SettingsError(
            f"there are several observed sites, {', '.join(sites)}: name one with site="
        )
    if site is not None and site not in sites:
        raise SettingsError(f"no observed site '{site}'; there are {', '.join(sites)}")
    return sites[0] if site is None else site


def _missing(posterior: Posterior, site: str, observed: np.ndarray) -> np.ndarray:
    """Which observations are NaN, or masked by the program where it is at hand."""
    found = np.isnan(observed) if observed.dtype.kind == "f" else np.zeros(observed.shape, bool)
    if posterior.has_model:
        problem = posterior.problem
        with computing():
            fn = trace_program(problem.model.fn, problem.data, 0)[site]["fn"]
            masked = masked_out(fn, tuple(fn.batch_shape))
        found = found | masked.reshape(masked.shape + (1,) * (observed.ndim - masked.ndim))
    return found


def _replicates(posterior: Posterior, site: str, seed: int) -> Iterator[np.ndarray]:
    """Replicates of the observations, of shape (chain, some draws, ...).

    Those that are there already, else as many at once as fit in memory.
    """
    import xarray as xr

    tree = posterior.data
    if "posterior_predictive" in tree and site in tree["posterior_predictive"].data_vars:
        yield tree["posterior_predictive"][site].transpose("chain", "draw", ...).values
        return
    if not posterior.has_model:
        raise ModelError(
            "a predictive check needs the group posterior_predictive or the model, and this "
            "posterior was loaded without either: bayes.load(path, model=...) gives the model"
        )
    sizes = tree["posterior"].sizes
    numbers = sum(variable.size for variable in tree["observed_data"].data_vars.values())
    step = max(1, _AT_ONCE // (8 * max(1, numbers) * sizes["chain"]))
    groups = {n: tree[n].to_dataset() for n in ("posterior", "auxiliary") if n in tree}
    for batch, begin in enumerate(range(0, sizes["draw"], step)):
        part = {n: g.isel(draw=slice(begin, begin + step)) for n, g in groups.items()}
        own = seed if batch == 0 else _derived_seed(seed, batch)
        with computing():
            found = posterior_predictive(
                posterior.problem, xr.DataTree.from_dict(part), own, _MEMORY
            )
        yield found[site].values


def _derived_seed(seed: int, batch: int) -> int:
    return int(np.random.SeedSequence([seed, batch]).generate_state(1, np.uint64)[0] >> 1)


def _evaluate(function: Callable[[Any], Any], name: str, data: np.ndarray, whose: str) -> float:
    """A statistic of one data set, which has to be a number."""
    try:
        with np.errstate(all="ignore"):
            value = function(data)
    except Exception as error:
        raise SettingsError(
            f"statistic '{name}' failed on {whose}: {type(error).__name__}: {error}"
        ) from error
    found = np.asarray(value)
    if found.ndim or found.dtype.kind not in "biuf":
        what = f"an array of shape {found.shape}" if found.ndim else repr(value)
        raise SettingsError(f"statistic '{name}' of {whose} is {what}; it has to be one number")
    if np.isnan(found):
        raise SettingsError(f"statistic '{name}' of {whose} is NaN")
    return float(found)
