"""Convergence of draws wherever they are: in memory, or in a store and assessed part by part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bayes.diagnostics.convergence import (
    LOG_DENSITY,
    Convergence,
    constant_elements,
    convergence,
    telling_place,
)
from bayes.diagnostics.elements import element_labels, resting_elements
from bayes.stored_draws import StoredDraws

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["assess"]

_PART = 2**21
"""Numbers that are assessed at once: 16 MB, of which there are some copies."""


def assess(
    sites: Mapping[str, np.ndarray | StoredDraws],
    lp: np.ndarray | None,
    sampled: Collection[str] | None = None,
) -> Convergence:
    """As :func:`convergence`, also of draws that do not fit in memory.

    Parameters
    ----------
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).
    lp : array of shape (chain, draw), optional
        Log density.
    sampled : collection of str, optional
        Sites that should move and whose standard deviations are judged.

    Returns
    -------
    Convergence
    """
    stored = {k: v for k, v in sites.items() if isinstance(v, StoredDraws)}
    if not stored:
        return convergence({k: np.asarray(v) for k, v in sites.items()}, lp, sampled)
    names: list[str] = []
    columns: list[np.ndarray] = []  # of R-hat, bulk, tail, spread
    constant = 0
    resting: tuple[str, ...] = ()
    owners: list[tuple[StoredDraws, np.ndarray]] = []
    for name, draws in stored.items():
        statistics, kept = _assess_site(name, draws, sampled)
        names += element_labels(name, draws.shape[2:], kept)
        constant += int((~kept).sum())
        if sampled is not None and name in sampled:
            resting += resting_elements(name, np.asarray(draws[:1, :1, ...][0, 0]), ~kept)
        columns.append(statistics[:, kept])
        owners.append((draws, np.flatnonzero(kept)))
    if lp is not None:
        names.append(LOG_DENSITY)
        columns.append(_columns(convergence({LOG_DENSITY: lp}, lp))[:, -1:])
    rhat, bulk, tail, spread = np.concatenate(columns, axis=1)
    slowest = _draws_of(telling_place(rhat, names), owners, lp) if names else None
    if slowest is None:
        slowest = np.empty(next(iter(stored.values())).shape[:2])
    return Convergence(names, slowest, rhat, bulk, tail, spread, constant, resting)


def _assess_site(
    name: str, draws: StoredDraws, sampled: Collection[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of every element of a site, and which elements are not constant."""
    size = int(np.prod(draws.shape[2:], dtype=int))
    statistics, kept = np.full((4, size), np.nan), np.zeros(size, bool)
    for places, values in _parts(draws):
        moving = ~constant_elements(values)
        found = convergence({name: values}, None, sampled)
        kept[places] = moving
        statistics[:, places[moving]] = _columns(found)
    return statistics, kept


def _columns(found: Convergence) -> np.ndarray:
    return np.stack([found.rhat, found.bulk, found.tail, found.spread])


def _parts(draws: StoredDraws) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some elements at a time, fewer than are read at once: assessing them takes copies."""
    step = max(1, _PART // max(1, draws.shape[0] * draws.shape[1]))
    for places, values in draws.elements():
        for start in range(0, len(places), step):
            yield places[start : start + step], values[..., start : start + step]


def _draws_of(
    place: int, owners: list[tuple[StoredDraws, np.ndarray]], lp: np.ndarray | None
) -> np.ndarray | None:
    """Draws of one of the assessed elements, by its place among them."""
    for draws, elements in owners:
        if place < len(elements):
            index = np.unravel_index(elements[place], draws.shape[2:]) if draws.ndim > 2 else ()
            box = tuple(slice(int(i), int(i) + 1) for i in index)
            found = draws[(slice(None), slice(None), *box)]
            return found.reshape(draws.shape[:2]).astype(float)
        place -= len(elements)
    return lp
