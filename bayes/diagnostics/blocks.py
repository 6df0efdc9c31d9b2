"""Draws as rows of elements: in blocks that fit the cache, and in halves of chains."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

__all__ = ["by_block", "halves"]

Rows = Float[np.ndarray, "element chain draw"]

_BLOCK = 2**17
"""Draws that are worked on at once: 1 MB, of which some 15 copies stay in the cache."""


def by_block(
    values: Float[np.ndarray, "chain draw element"],
    statistics: Callable[[Rows], Float[np.ndarray, "statistic element"]],
    number: int,
) -> Float[np.ndarray, "statistic element"]:
    """Statistics of every element, computed for as many at once as fit the cache.

    Parameters
    ----------
    values : array of shape (chain, draw, element)
        Draws.
    statistics : callable
        From rows of shape (element, chain, draw) to statistics of shape (number, element).
    number : int
        How many statistics it gives.

    Returns
    -------
    array of shape (number, element)
        NaN where there are fewer than 4 draws a chain, as in ArviZ.
    """
    chains, draws, count = values.shape
    found = np.full((number, count), np.nan)
    if draws < 4:
        return found
    size = max(1, _BLOCK // (chains * draws))
    threads = os.cpu_count() or 1 if values.size > _BLOCK else 1
    size = min(size, max(1, -(-count // threads)))

    def one(start: int) -> None:
        block = np.moveaxis(values[..., start : start + size], 2, 0)
        rows = np.ascontiguousarray(block, dtype=float)
        with np.errstate(all="ignore"):
            found[:, start : start + size] = statistics(rows)

    starts = range(0, count, size)
    if threads == 1:
        for start in starts:
            one(start)
    else:  # NumPy sorts and transforms without Python's lock
        with ThreadPoolExecutor(threads, "bayes-statistics") as pool:
            list(pool.map(one, starts))
    return found


def halves(rows: Rows) -> Float[np.ndarray, "element 2*chain draw//2"]:
    """Each chain's first and second half as chains of their own; an odd draw is left out."""
    count, chains, draws = rows.shape
    half = draws // 2
    if draws % 2 == 0:
        return rows.reshape(count, 2 * chains, half)
    return np.concatenate((rows[..., :half], rows[..., -half:]), axis=1)
