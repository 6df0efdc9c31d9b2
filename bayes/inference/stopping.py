"""When a run has enough draws.

The sampler looks at the statistics of the verdict (rank-normalised R-hat, bulk and tail effective
sample sizes, errors of standard deviations), of the log density and of up to some hundred
elements. It looks rarely, each time after so many draws as the last look says are needed: that
keeps both the cost and the selection of lucky moments small. The elements that are worst by means
of batches are looked at first, and the others only where those have enough.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import chdtri

from bayes.diagnostics.blocks import by_block
from bayes.diagnostics.ranks import rank_statistics
from bayes.diagnostics.spread import spread_errors

__all__ = ["FIRST_LOOK", "Look", "look", "motionless", "watched_elements"]

FIRST_LOOK = 300
_MOST_WATCHED = 300
_RHAT, _SPREAD_ERROR = 1.01, 0.04
_SLOWER, _LEAST_ROOM = 1.25, 1.1
"""Where only some elements are watched: room for others that are slower, and at least so much for
the R-hat of others, which is in part noise."""
_SOME_DRAWS = 20
_FEW, _SUSPECTS, _BATCH = 32, 4, 25
"""Of more than a few elements, so many are looked at first for each of four scores, which come of
batches of so many draws and of half chains."""
_LEAST_GROWTH, _MOST_GROWTH = 1.3, 2.0


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look found.

    Parameters
    ----------
    needed : int
        Draws a chain after which to look again; those there are where they are enough.
    rhat : float
        The largest R-hat; NaN for one chain.
    """

    needed: int
    rhat: float


def watched_elements(values: Float[np.ndarray, "chain n element"]) -> Int[np.ndarray, " watched"]:
    """The elements to look at: all, or where there are many, half slow ones and half any.

    Parameters
    ----------
    values : array of shape (chain, n, element)
        Draws of the warm-up's end; their lag-one autocorrelation tells the slow ones.
    """
    count = values.shape[2]
    if count <= _MOST_WATCHED:
        return np.arange(count)
    spread = np.linspace(0, count - 1, _MOST_WATCHED // 2).round().astype(int)
    if values.shape[1] < 3:
        return np.unique(spread)
    centred = values - values.mean(axis=(0, 1))
    product = (centred[:, 1:] * centred[:, :-1]).sum(axis=(0, 1))
    slow = np.argsort(-product / np.maximum(np.square(centred).sum(axis=(0, 1)), 1e-300))
    return np.unique(np.concatenate([slow[: _MOST_WATCHED // 2], spread]))


def motionless(density: Float[np.ndarray, "chain draw"]) -> Bool[np.ndarray, " chain"]:
    """Chains that have not moved at all in so many draws that they should have."""
    if density.shape[1] < _SOME_DRAWS:
        return np.zeros(len(density), bool)
    return np.ptp(density, axis=1) == 0


def look(
    values: Float[np.ndarray, "chain draw element"],
    density: Float[np.ndarray, "chain draw"],
    sampled: Bool[np.ndarray, " element"],
    target: float | int,
    elements: int,
) -> Look:
    """See whether there are enough draws.

    Parameters
    ----------
    values : array of shape (chain, draw, element)
        Draws of the watched elements.
    density : array of shape (chain, draw)
        Their log density, which shows chains in different modes; nobody needs its mean.
    sampled : array of bool, shape (element,)
        Elements whose standard deviation is to be settled: of sampled sites, not derived ones.
    target : float
        Effective sample size that every element is to have.
    elements : int
        How many there are, those that are not watched included.
    """
    draws, watched = values.shape[1:]
    slower, room = 1.0, 1.0
    if watched < elements:
        # Of chains that agree, R-hat^2 - 1 is in proportion to a chi-square variable with a degree
        # of freedom less than there are half chains; the largest of more of them is larger.
        highest = [chdtri(2 * len(values) - 1, 1.0 / max(n, 2)) for n in (elements, watched)]
        slower, room = _SLOWER, max(_LEAST_ROOM, highest[0] / highest[1])
    moving = np.ptp(values, axis=(0, 1)) > 0
    values, sampled = values[..., moving], sampled[moving]
    first = _suspects(values)
    lack, rhat = _lack(values[..., first], density, sampled[first], slower * target, room)
    if lack <= 1.0 and not first.all():
        rest = ~first
        more, other = _lack(values[..., rest], density, sampled[rest], slower * target, room)
        lack, rhat = max(lack, more), max(rhat, other)
    growth = np.clip(1.15 * lack, _LEAST_GROWTH, _MOST_GROWTH) if lack > 1.0 else 1.0
    return Look(int(np.ceil(draws * growth)), rhat)


def _lack(
    values: Float[np.ndarray, "chain draw element"],
    density: Float[np.ndarray, "chain draw"],
    sampled: Bool[np.ndarray, " element"],
    target: float,
    room: float,
) -> tuple[float, float]:
    """How many times as many draws are needed, and the largest R-hat."""
    found = rank_statistics(np.concatenate([values, density[..., None]], axis=2))
    size = np.minimum(found.bulk, found.tail)[:-1].min(initial=np.inf)
    lacks = [target / size]
    rhat = float(found.rhat.max())
    if len(values) > 1:
        # Of a stationary chain, R-hat - 1 falls with the number of draws.
        lacks.append(room * (rhat - 1.0) / (_RHAT - 1.0))
    error = spread_errors(values[..., sampled]).max(initial=0.0)
    lacks.append(float(np.square(error / _SPREAD_ERROR)))
    return (np.inf if np.isnan(lacks).any() else max(lacks)), rhat


def _suspects(values: Float[np.ndarray, "chain draw element"]) -> Bool[np.ndarray, " element"]:
    """The elements whose draws, or their squares, differ most between batches or half chains."""
    chosen = np.ones(values.shape[2], bool)
    if len(chosen) > _FEW:
        # What is not a number sorts last, and is the most suspicious.
        worst = np.argsort(by_block(values, _differences, 4), axis=1)[:, -_SUSPECTS:]
        chosen[:] = False
        chosen[worst.ravel()] = True
    return chosen


def _differences(
    rows: Float[np.ndarray, "element chain draw"],
) -> Float[np.ndarray, "4 element"]:
    """Variances of the means of batches and of half chains, in units of the variance."""
    draws = rows.shape[2]
    centred = rows - rows.mean(axis=(1, 2), keepdims=True)
    scores = []
    for numbers in (centred, np.square(centred)):
        variance = numbers.var(axis=(1, 2))
        for length in (_BATCH, draws // 2):
            whole = numbers[..., : draws - draws % length]
            means = whole.reshape(*numbers.shape[:2], -1, length).mean(axis=3)
            scores.append(means.var(axis=(1, 2)) / variance)
    return np.stack(scores)
