"""Whether ranks are uniform: tests with exact or near exact p values, and simultaneous bands.

ArviZ's bands are for continuous values, found by simulation, which is too coarse for p values that
are adjusted over many quantities. Ranks are discrete, and the probability that their distribution
function stays within bands can be computed.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int

__all__ = ["adjust", "chi_square_test", "ecdf_bands", "ecdf_test"]

_FEWEST_A_BIN = 5
_EQUAL = 1 + 1e-9
"""Tail probabilities closer than that are the same, computed in two ways."""


def chi_square_test(ranks: Int[np.ndarray, " n"], draws: int) -> float:
    """P value of Pearson's chi-square test of ranks, in bins of equal width.

    Parameters
    ----------
    ranks : array of shape (n,)
        Ranks in 0..draws.
    draws : int
        Draws that a value was ranked among.
    """
    from scipy.stats import chi2

    bins = _bin_count(len(ranks), draws)
    counts = np.bincount(ranks * bins // (draws + 1), minlength=bins)
    expected = len(ranks) / bins
    return float(chi2.sf(((counts - expected) ** 2).sum() / expected, bins - 1))


def _bin_count(n: int, draws: int) -> int:
    """The most bins that divide the ranks evenly and still expect five of n ranks each."""
    fitting = [b for b in range(2, 21) if (draws + 1) % b == 0 and n >= _FEWEST_A_BIN * b]
    return max(fitting, default=2)


def ecdf_test(ranks: Int[np.ndarray, " n"], draws: int) -> float:
    """P value of the test of the whole empirical distribution function.

    The statistic is the smallest pointwise tail probability of the distribution function anywhere;
    its own distribution is exact.

    Parameters
    ----------
    ranks : array of shape (n,)
        Ranks in 0..draws.
    draws : int
        Draws that a value was ranked among.

    References
    ----------
    Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its
    applications in goodness-of-fit evaluation and multiple sample comparison, section 2.
    """
    n = len(ranks)
    below = np.cumsum(np.bincount(ranks, minlength=draws + 1))[:draws]
    smallest = float(_tails(n, draws)[np.arange(draws), below].min())
    return 1.0 - _staying(n, draws, smallest)


def ecdf_bands(
    n: int, draws: int, level: float
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Bands that the distribution function of uniform ranks leaves with at most some probability.

    Parameters
    ----------
    n : int
        Number of ranks.
    draws : int
        Draws that each value was ranked among.
    level : float
        Probability that the function leaves the bands anywhere.

    Returns
    -------
    position, lower, upper : array of shape (draws,)
        Where the function is looked at, and the bands there, as shares of the ranks.
    """
    low, high = 0.0, 1.0
    for _ in range(50):  # the probability is a step function of the tail probability
        middle = (low + high) / 2
        if 1.0 - _staying(n, draws, middle) <= level:
            low = middle
        else:
            high = middle
    inside = _tails(n, draws) > low * _EQUAL
    lower = inside.argmax(axis=1)
    upper = n - inside[:, ::-1].argmax(axis=1)
    return np.arange(1, draws + 1) / (draws + 1), lower / n, upper / n


@functools.lru_cache(maxsize=4)
def _tails(n: int, draws: int) -> Float[np.ndarray, "draws counts"]:
    """Twice the smaller tail probability of each count of ranks below each possible rank."""
    from scipy.stats import binom

    counts = np.arange(n + 1)
    position = np.arange(1, draws + 1)[:, None] / (draws + 1)
    at_most, at_least = binom.cdf(counts, n, position), binom.sf(counts - 1, n, position)
    return 2 * np.minimum(at_most, at_least)


def _staying(n: int, draws: int, tail: float) -> float:
    """Probability that no count of n uniform ranks has a tail probability of at most ``tail``.

    Counts of a rank are independent Poisson numbers given that they add up to n, so that the
    distribution of the count below each possible rank, among those that stayed so far, is a
    convolution with one Poisson distribution.
    """
    from scipy.stats import poisson

    inside = _tails(n, draws) > tail * _EQUAL
    if not inside.any(axis=1).all():
        return 0.0
    lower = inside.argmax(axis=1)
    upper = n - inside[:, ::-1].argmax(axis=1)
    mean = n / (draws + 1)
    step = poisson.pmf(np.arange(int(mean + 12 * np.sqrt(mean)) + 30), mean)
    start, now = 0, np.ones(1)
    for first, last in zip(lower, upper, strict=True):
        moved = np.convolve(now, step)
        kept = np.zeros(last - first + 1)
        begin, end = max(first, start), min(last, start + len(moved) - 1)
        if begin > end:
            return 0.0
        kept[begin - first : end - first + 1] = moved[begin - start : end - start + 1]
        start, now = first, kept
    rest = n - start - np.arange(len(now))
    return float(min(1.0, now @ poisson.pmf(rest, mean) / poisson.pmf(n, n)))


def adjust(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """P values adjusted for their number; below a level they have a joint false alarm rate of it.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.maximum.accumulate(p_values[order] * factors)
    found = np.empty(len(p_values))
    found[order] = np.minimum(adjusted, 1.0)
    return found
