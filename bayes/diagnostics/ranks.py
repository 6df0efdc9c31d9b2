"""Rank-normalised R-hat and effective sample sizes of many elements at once.

The numbers are those of ArviZ, which loops over elements in Python: for 92 elements and 4 x 500
draws its three functions take nine times as long as :func:`rank_statistics`, for 4 x 4000 draws
six times.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.blocks import by_block, halves
from bayes.diagnostics.effective_size import Chains, centre, effective_size
from bayes.diagnostics.normal_scores import (
    Sorted,
    folded_scores,
    normal_scores,
    score_table,
    sort_draws,
)

__all__ = [
    "RankStatistics",
    "bulk_ess",
    "mean_ess",
    "rank_rhat",
    "rank_statistics",
    "tail_ess",
]

Values = Float[np.ndarray, "chain draw element"]
Statistic = Float[np.ndarray, " element"]

_TAILS = (0.05, 0.95)


@dataclasses.dataclass(frozen=True)
class RankStatistics:
    """Convergence of many elements.

    Parameters
    ----------
    rhat : array of shape (element,)
        Larger of the rank-normalised split R-hats of the draws and of their distances to the
        median; NaN for one chain, and for an element that is constant.
    bulk : array of shape (element,)
        Effective sample size of the rank-normalised draws.
    tail : array of shape (element,)
        Smaller of the effective sample sizes of two tail probabilities.
    """

    rhat: Statistic
    bulk: Statistic
    tail: Statistic


def rank_statistics(values: Values, tails: tuple[float, float] = _TAILS) -> RankStatistics:
    """R-hat, bulk and tail effective sample size of every element.

    Parameters
    ----------
    values : array of shape (chain, draw, element)
        Draws; an element with NaN among them has NaN for its statistics.
    tails : (float, float)
        Probabilities below the quantiles at which the tails begin.

    Returns
    -------
    RankStatistics
        NaN throughout where there are fewer than 4 draws a chain.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC, sections 3 and 4.
    """
    table = _table(values)

    def statistics(rows: np.ndarray) -> np.ndarray:
        draws = sort_draws(halves(rows))
        scores = centre(normal_scores(draws, table))
        # Quantiles are those of all draws, also where an odd one is left out of the halves.
        ordered = draws.values if rows.shape[2] % 2 == 0 else _in_order(rows)
        found = _rhat(draws, scores, table), effective_size(scores), _tail(rows, ordered, tails)
        return np.where(np.isnan(ordered[:, -1]), np.nan, np.stack(found))  # NaN is sorted last

    return RankStatistics(*by_block(values, statistics, 3))


def rank_rhat(values: Values) -> Statistic:
    """R-hat as in :func:`rank_statistics`, alone."""
    table = _table(values)

    def statistics(rows: np.ndarray) -> np.ndarray:
        draws = sort_draws(halves(rows))
        return _known(rows, _rhat(draws, centre(normal_scores(draws, table)), table))

    return by_block(values, statistics, 1)[0]


def bulk_ess(values: Values) -> Statistic:
    """Bulk effective sample size as in :func:`rank_statistics`, alone."""
    table = _table(values)

    def statistics(rows: np.ndarray) -> np.ndarray:
        scores = normal_scores(sort_draws(halves(rows)), table)
        return _known(rows, effective_size(centre(scores)))

    return by_block(values, statistics, 1)[0]


def tail_ess(values: Values, tails: tuple[float, float] = _TAILS) -> Statistic:
    """Tail effective sample size as in :func:`rank_statistics`, alone."""

    def statistics(rows: np.ndarray) -> np.ndarray:
        return _known(rows, _tail(rows, _in_order(rows), tails))

    return by_block(values, statistics, 1)[0]


def mean_ess(values: Values) -> Statistic:
    """Effective sample size for the mean of every element.

    Parameters
    ----------
    values : array of shape (chain, draw, element)
        Draws.

    Returns
    -------
    array of shape (element,)
        NaN where there are fewer than 4 draws a chain.
    """

    def statistics(rows: np.ndarray) -> np.ndarray:
        return _known(rows, effective_size(centre(halves(rows))))

    return by_block(values, statistics, 1)[0]


def _known(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    """One statistic, NaN where a draw is."""
    return np.where(np.isnan(rows).any(axis=(1, 2)), np.nan, found)[None]


def _table(values: np.ndarray) -> np.ndarray:
    chains, draws, _ = values.shape
    return score_table(2 * chains * (draws // 2))


def _in_order(rows: np.ndarray) -> np.ndarray:
    return np.sort(rows.reshape(len(rows), -1), axis=1)


def _rhat(draws: Sorted, scores: Chains, table: np.ndarray) -> np.ndarray:
    """The larger of two ratios: of where chains are, and of how far they reach (section 4.2)."""
    if draws.chains < 4:  # halves of one chain
        return np.full(len(draws.values), np.nan)
    near, far = _ratio(scores), _ratio(centre(folded_scores(draws, table)))
    # The latter is NaN where a binary element is as far from its median at every draw.
    return np.where(far > near, far, near)


def _ratio(chains: Chains) -> np.ndarray:
    """Square root of the pooled variance over that within chains (section 3.1)."""
    draws = chains.centred.shape[2]
    return np.sqrt((draws - 1) / draws + chains.between / chains.within)


def _tail(rows: np.ndarray, ordered: np.ndarray, tails: tuple[float, float]) -> np.ndarray:
    """The smaller of the effective sample sizes for the probabilities of two tails."""
    found = []
    for prob in tails:
        below = rows <= _quantile(ordered, prob)[:, None, None]
        found.append(effective_size(centre(halves(below.astype(float)))))
    return np.minimum(*found)


def _quantile(ordered: np.ndarray, prob: float) -> np.ndarray:
    """Linear between neighbours, rounded as NumPy does: a draw may be equal to its quantile."""
    place = (ordered.shape[1] - 1) * prob
    left = int(place)
    right, share = min(left + 1, ordered.shape[1] - 1), place - left
    low, high = ordered[:, left], ordered[:, right]
    step = high - low
    return low + step * share if share < 0.5 else high - step * (1 - share)
