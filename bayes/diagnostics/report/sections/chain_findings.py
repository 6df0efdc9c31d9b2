"""What chains did, in words."""

from __future__ import annotations

import dataclasses

import numpy as np

from bayes.diagnostics.checks import ESS, RHAT
from bayes.diagnostics.ranks import bulk_ess

__all__ = ["Traced", "finding", "relative_ranks"]

_LONG, _MOST = 20, 4
"""Draws on end of the same value that are worth a word, and chains that it is said of."""
_APART = 4.5
"""Standard errors that a chain may be off before it is said to lie apart: of reports on chains that
agree, fewer than one in a thousand says so."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """An element whose chains are drawn.

    Parameters
    ----------
    name : str
        The element.
    draws : array of shape (chain, draw)
        Its draws.
    rhat, bulk, tail : float
        R-hat and effective sample sizes.
    """

    name: str
    draws: np.ndarray
    rhat: float
    bulk: float
    tail: float


def finding(traced: Traced) -> str:
    """What the chains of an element did, in words.

    Parameters
    ----------
    traced : Traced
        The element.

    Returns
    -------
    str
    """
    draws = traced.draws
    if not np.isfinite(draws).all():
        return "some draws are not finite"
    still = [str(c) for c in np.flatnonzero(np.ptp(draws, axis=1) == 0)]
    if still:
        who = f"chain {still[0]} does" if len(still) == 1 else f"chains {', '.join(still)} do"
        return f"{who} not move"
    parts = []
    if len(draws) > 1:
        ranks = relative_ranks(draws)
        for values, low, high in (
            (ranks, "below", "above"),
            (2 * np.abs(ranks - 0.5), "closer together than", "farther out than"),
        ):
            off = _deviations(values)
            for mask, word in ((off < -_APART, low), (off > _APART, high)):
                parts += _who(np.flatnonzero(mask), word)
            if parts:
                break
    parts += _rests(draws)
    if not parts and traced.rhat >= RHAT:
        parts.append("no chain stands out, but they mix slowly")
    if not parts and min(traced.bulk, traced.tail) < ESS:
        parts.append("its draws follow each other so closely that they count for few")
    return "; ".join(parts) or ("the chains agree" if len(draws) > 1 else "nothing stands out")


def _rests(draws: np.ndarray) -> list[str]:
    """Chains that had one value for long, while others moved."""
    if len(np.unique(draws)) < 0.2 * draws.size:  # discrete
        return []
    lengths = []
    for chain in draws:
        moves = np.flatnonzero(np.diff(chain, prepend=np.nan, append=np.nan) != 0)
        lengths.append(int(np.diff(moves).max()))
    least = max(_LONG, draws.shape[1] // 20)
    return [
        f"chain {c} has the same value for {n} draws on end"
        for c, n in enumerate(lengths)
        if n >= least
    ][:_MOST]


def _who(chains: np.ndarray, word: str) -> list[str]:
    if not len(chains):
        return []
    names = ", ".join(map(str, chains))
    who = f"chain {names} lies" if len(chains) == 1 else f"chains {names} lie"
    return [f"{who} {word} the others"]


def relative_ranks(draws: np.ndarray) -> np.ndarray:
    """Ranks of draws among those of all chains, between 0 and 1."""
    from scipy.stats import rankdata

    return (rankdata(draws, method="average").reshape(draws.shape) - 0.5) / draws.size


def _deviations(ranks: np.ndarray) -> np.ndarray:
    """Standard errors that a chain's mean is off the middle one; 0 where it is off by little."""
    means = ranks.mean(axis=1)
    sizes = bulk_ess(ranks.T[None])
    errors = ranks.std(axis=1) / np.sqrt(np.fmax(sizes, 1.0))
    off = means - np.median(means)
    with np.errstate(all="ignore"):
        return np.where(np.abs(off) > 0.05, off / errors, 0.0)
