"""Statistics of every element of a posterior, computed once for all sections."""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from bayes.diagnostics.checks import ESS, RHAT, SPREAD_ERROR
from bayes.diagnostics.convergence import constant_elements, convergence, element_labels
from bayes.diagnostics.ranks import mean_ess
from bayes.diagnostics.report.contents import Case
from bayes.diagnostics.report.sections.elements import card_sites

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Elements",
    "draws_at",
    "elements_of",
    "is_markov",
    "parts_of",
    "statistic",
    "worst_first",
]

_PART = 2**21
"""Numbers that are read and worked on at once: 16 MB, of which there are some copies."""

Column = Float[np.ndarray, " element"]


@dataclasses.dataclass(frozen=True)
class Elements:
    """Statistics of every element of every site, in the order of the program.

    Parameters
    ----------
    names : list of str
        Such as ``theta[3]``.
    labels : list of str
        Their labels, such as ``Deerfield``; empty where a site has none.
    sites : list of str
        The site of each.
    places : array of int
        Where each is in its flattened site.
    prob : float
        Probability of the intervals.
    mean, sd, low, high : array of shape (element,)
        Mean, standard deviation and central interval.
    rhat, bulk, tail : array of shape (element,)
        As in :class:`bayes.diagnostics.convergence.Convergence`; NaN for constants.
    mean_error, sd_error : array of shape (element,)
        Monte Carlo standard errors of mean and standard deviation; NaN for constants.
    constant : array of bool
        Which are constant by construction.
    flagged : array of bool
        Which a check of the verdict objects to.
    """

    names: list[str]
    labels: list[str]
    sites: list[str]
    places: np.ndarray
    prob: float
    mean: Column
    sd: Column
    low: Column
    high: Column
    rhat: Column
    bulk: Column
    tail: Column
    mean_error: Column
    sd_error: Column
    constant: Bool[np.ndarray, " element"]
    flagged: Bool[np.ndarray, " element"]

    def __len__(self) -> int:
        return len(self.names)


_latest: tuple[weakref.ref[Case], Elements] | None = None


def elements_of(case: Case) -> Elements:
    """Statistics of every element of a case; those of the latest case are kept.

    Parameters
    ----------
    case : Case
        The case.

    Returns
    -------
    Elements
    """
    global _latest
    kept = _latest
    if kept is None or kept[0]() is not case:
        kept = _latest = weakref.ref(case), _assess(case)
    return kept[1]


def is_markov(case: Case) -> bool:
    """Whether the draws are of Markov chains: those of an approximation are independent."""
    if case.tree["posterior"].attrs.get("independent"):
        return False
    return statistic(case, "log_q") is None


def statistic(case: Case, name: str) -> np.ndarray | None:
    """A sampler statistic of shape (chain, draw); None where there is none of this name."""
    if "sample_stats" not in case.tree.children:
        return None
    stats = case.tree["sample_stats"]
    if name not in stats.data_vars or set(stats[name].dims) != {"chain", "draw"}:
        return None
    return stats[name].transpose("chain", "draw").values


def parts_of(variable: xr.Variable) -> Iterator[tuple[slice, np.ndarray]]:
    """Draws of some elements of a site at a time.

    Parameters
    ----------
    variable : xarray.Variable
        Draws of dims (chain, draw, ...), in memory or not.

    Yields
    ------
    places : slice
        Which elements of the flattened site.
    values : array of shape (chain, draw, k)
        Their draws.
    """
    shape = variable.shape[2:]
    most = max(1, _PART // max(1, variable.shape[0] * variable.shape[1]))
    # Whole trailing dimensions as far as they fit, so that every part is one stretch of the site.
    inner = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    axis = next((k for k, size in enumerate(inner) if size <= most), None)
    if axis is None:
        yield slice(0, 1), np.asarray(variable.values)[..., None]
        return
    step = max(1, most // max(1, inner[axis]))
    begin = 0
    for lead in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], step):
            box = (*(slice(i, i + 1) for i in lead), slice(start, start + step))
            values = np.asarray(variable[(slice(None), slice(None), *box)].values)
            values = values.reshape(*values.shape[:2], -1)
            yield slice(begin, begin + values.shape[2]), values
            begin += values.shape[2]


def draws_at(case: Case, found: Elements, place: int) -> np.ndarray:
    """Draws of an element, of shape (chain, draw)."""
    posterior = case.tree["posterior"].to_dataset()
    variable = posterior[found.sites[place]].variable.transpose("chain", "draw", ...)
    index = np.unravel_index(found.places[place], variable.shape[2:]) if variable.ndim > 2 else ()
    box = tuple(slice(int(i), int(i) + 1) for i in index)
    values = np.asarray(variable[(slice(None), slice(None), *box)].values)
    return values.reshape(values.shape[:2]).astype(float)


def worst_first(found: Elements) -> np.ndarray:
    """Places of the elements that are not constant, those that mixed worst first.

    By R-hat as far as it is beyond its threshold (below it is noise), then by the smaller
    effective sample size.
    """
    rhat = np.where(np.isnan(found.rhat), 0.0, found.rhat)
    size = np.fmin(found.bulk, found.tail)
    order = np.lexsort((np.where(np.isnan(size), -1.0, size), -np.where(rhat >= RHAT, rhat, 0.0)))
    return order[~found.constant[order]]


def _assess(case: Case) -> Elements:
    import arviz_base

    prob = float(arviz_base.rcParams["stats.ci_prob"])
    posterior = case.tree["posterior"].to_dataset()
    names: list[str] = []
    labels: list[str] = []
    sites: list[str] = []
    columns: list[np.ndarray] = [np.empty((10, 0))]
    places: list[np.ndarray] = [np.empty(0, int)]
    for name in map(str, posterior.data_vars):
        variable = posterior[name].variable.transpose("chain", "draw", ...)
        shape = variable.shape[2:]
        size = math.prod(shape)
        found = np.empty((10, size))
        for part, values in parts_of(variable):
            found[:, part] = _statistics(values, prob)
        columns.append(found)
        places.append(np.arange(size))
        sites += [name] * size
        names += element_labels(name, shape, np.ones(size, bool))
        labels += _labels(posterior[name].coords, variable.dims[2:], shape)
    mean, sd, low, high, rhat, bulk, tail, mean_error, spread, constant = np.concatenate(
        columns, axis=1
    )
    count = posterior.sizes["chain"] * posterior.sizes["draw"]
    found = Elements(
        names,
        labels,
        sites,
        np.concatenate(places),
        prob,
        mean,
        sd,
        low,
        high,
        rhat,
        bulk,
        tail,
        mean_error,
        spread * sd * np.sqrt(1 - 1 / count),
        constant.astype(bool),
        np.zeros(len(names), bool),
    )
    return dataclasses.replace(found, flagged=_flagged(case, found, spread))


def _statistics(values: np.ndarray, prob: float) -> np.ndarray:
    """Ten statistics of every element of a part: the fields of :class:`Elements` in order.

    ArviZ's summary is not asked: it takes a site as a whole, and has no R-hat for a chain that does
    not move or for draws that are not finite, on which the verdict has a word.
    """
    values = values.astype(float, copy=False)
    chains, draws, count = values.shape
    rows = np.ascontiguousarray(values.reshape(chains * draws, count).T)
    constant = constant_elements(values)
    found = np.full((10, count), np.nan)
    tails = ((1 - prob) / 2, (1 + prob) / 2)
    with np.errstate(all="ignore"):
        found[0], found[1] = rows.mean(axis=1), rows.std(axis=1, ddof=1)
        found[2:4] = np.quantile(rows, tails, axis=1)
        if not constant.all():
            moving = values[..., ~constant]
            judged = convergence({"": moving}, None)
            spread = np.where(np.isfinite(judged.spread), judged.spread, np.nan)
            error = found[1, ~constant] / np.sqrt(mean_ess(moving))
            found[4:9, ~constant] = judged.rhat, judged.bulk, judged.tail, error, spread
    found[9] = constant
    return found


def _labels(coords: Any, dims: tuple[Any, ...], shape: tuple[int, ...]) -> list[str]:
    """Labels of a site's elements, of the dimensions that have any but numbers from 0."""
    words: list[list[str]] = []
    for dim, length in zip(dims, shape, strict=True):
        given = coords[dim].values if dim in coords else np.arange(length)
        numbers = given.dtype.kind in "iu" and np.array_equal(given, np.arange(length))
        words.append([""] * length if numbers else list(map(str, given)))
    return [", ".join(filter(None, row)) for row in itertools.product(*words)]


def _flagged(case: Case, found: Elements, spread: np.ndarray) -> np.ndarray:
    """Elements beyond the thresholds of the verdict; none where it judges no Markov chains."""
    if not is_markov(case):
        return np.zeros(len(found), bool)
    chains = case.tree["posterior"].sizes["chain"]
    settled = (found.bulk >= ESS) & (found.tail >= ESS)
    if chains > 1:
        settled &= found.rhat < RHAT
    judged = _judged(case, found)
    settled &= ~judged | (spread <= SPREAD_ERROR)
    return ~settled & ~found.constant


def _judged(case: Case, found: Elements) -> np.ndarray:
    """Elements whose standard deviations the verdict judges: of continuous sampled sites."""
    kinds = {name: site["kind"] for name, site in card_sites(case).items()}
    sampled = next((k for k in ("latent", "discrete") if k in kinds.values()), None)
    return np.array([sampled is None or kinds.get(s) == sampled for s in found.sites], bool)
