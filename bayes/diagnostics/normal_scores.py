"""Rank normalisation of many elements at once: normal quantiles in place of draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

__all__ = ["Sorted", "folded_scores", "normal_scores", "score_table", "sort_draws"]


class Sorted(NamedTuple):
    """Draws of all chains of an element, in ascending order.

    Parameters
    ----------
    values : array of shape (element, draw of all chains)
        Draws.
    places : array of shape (element, draw of all chains)
        Where each stood when the chains stand one behind another.
    chains : int
        Number of chains.
    """

    values: Float[np.ndarray, "element all"]
    places: Int[np.ndarray, "element all"]
    chains: int


def sort_draws(rows: Float[np.ndarray, "element chain draw"]) -> Sorted:
    """Sort the draws of all chains together."""
    flat = rows.reshape(len(rows), -1)
    places = flat.argsort(axis=1)
    return Sorted(np.take_along_axis(flat, places, axis=1), places, rows.shape[1])


def score_table(size: int) -> Float[np.ndarray, " half_rank"]:
    """Normal quantiles of the ranks 1, 1.5, 2, ..., size: ties share the mean of their ranks.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC, section 4.1, with the offset
    of Blom (1958).
    """
    ranks = 1 + np.arange(2 * size - 1) / 2
    return ndtri((ranks - 3 / 8) / (size + 1 / 4))


def normal_scores(
    draws: Sorted, table: Float[np.ndarray, " half_rank"]
) -> Float[np.ndarray, "element chain draw"]:
    """Normal quantiles of the draws' ranks.

    Parameters
    ----------
    draws : Sorted
        Draws.
    table : array of shape (2 size - 1,)
        ``score_table`` of their number in all chains.

    Returns
    -------
    array of shape (element, chain, draw)
        In the order of the chains.
    """
    values, places, chains = draws
    scores = np.empty_like(values)
    np.put_along_axis(scores, places, table[None, ::2], axis=1)
    same = values[:, 1:] == values[:, :-1]
    if same.any():
        row, second = np.nonzero(same)
        begins = np.ones(len(row), dtype=bool)
        begins[1:] = (np.diff(row) != 0) | (np.diff(second) != 1)
        run = begins.cumsum() - 1
        first = second[begins]
        shared = table[2 * first + np.bincount(run)]
        scores[row, places[row, second + 1]] = shared[run]
        scores[row[begins], places[row[begins], first]] = shared
    return scores.reshape(len(scores), chains, -1)


def folded_scores(
    draws: Sorted, table: Float[np.ndarray, " half_rank"]
) -> Float[np.ndarray, "element chain draw"]:
    """Normal quantiles of the ranks of the draws' distances to their median (section 4.2)."""
    values, places, chains = draws
    middle = values.shape[1] // 2
    median = (values[:, middle - 1] + values[:, middle]) / 2
    distances = np.abs(values - median[:, None])
    # They fall and then rise, which a merge sort is done with in one pass.
    again = distances.argsort(axis=1, kind="stable")
    nearest = np.take_along_axis(distances, again, axis=1)
    scores = normal_scores(
        Sorted(nearest, np.take_along_axis(places, again, axis=1), chains), table
    )
    scores[np.isnan(nearest[:, -1])] = np.nan  # an infinite median
    return scores
