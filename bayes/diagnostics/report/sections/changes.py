"""How the data changed what is known of an element: its prior and its posterior in numbers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from bayes.diagnostics.report.sections.elements import draws_by_element, element_names
from bayes.diagnostics.tails import tail_index

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["APART", "LITTLE", "UNLEARNED", "WIDER", "Change", "site_changes"]

APART, WIDER, UNLEARNED = "in the prior's tail", "wider than the prior", "little learned"
"""What a reader should look at."""

LITTLE, FAR, TAIL, HEAVY = 0.1, 2.0, 0.025, 0.5
_QUARTILES_TO_SD = 1.349
"""Interquartile range of a normal distribution of standard deviation 1."""


@dataclasses.dataclass(frozen=True)
class Change:
    """How the data changed what is known of an element.

    Parameters
    ----------
    name : str
        The element.
    before, after : array of shape (draw,)
        Draws of prior and posterior.
    robust : bool
        Whether medians and quartiles stand for means and standard deviations.
    centres, spreads : (float, float)
        Of prior and posterior; spreads as standard deviations.
    tail : float
        Share of the prior beyond the posterior's median, on the smaller side.
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    robust: bool
    centres: tuple[float, float]
    spreads: tuple[float, float]
    tail: float

    @property
    def contraction(self) -> float:
        """1 - posterior variance / prior variance."""
        return 1.0 - (self.spreads[1] / self.spreads[0]) ** 2

    @property
    def shift(self) -> float:
        """How far the centre moved, in prior standard deviations."""
        return (self.centres[1] - self.centres[0]) / self.spreads[0]

    @property
    def note(self) -> str:
        """What a reader should look at; empty where nothing."""
        if abs(self.shift) > FAR and self.tail < TAIL:
            return APART
        if self.contraction < -LITTLE:
            return WIDER
        return UNLEARNED if self.contraction < LITTLE else ""


def site_changes(prior: xr.DataArray, posterior: xr.DataArray) -> list[Change]:
    """How the data changed what is known of each element of a site.

    Parameters
    ----------
    prior, posterior : xarray.DataArray of dims (chain, draw, ...)
        Draws of the site.

    Returns
    -------
    list of Change
        Without elements that are constant or not finite.
    """
    before, after = draws_by_element(prior), draws_by_element(posterior)
    kept = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    quartiles = [np.percentile(draws, (25, 50, 75), axis=0) for draws in (before, after)]
    kept &= (quartiles[0][2] > quartiles[0][0]) & (np.ptp(after, axis=0) > 0)
    if not kept.any():
        return []
    robust = _heavy(before[:, kept])
    if robust:
        centres = [q[1] for q in quartiles]
        spreads = [(q[2] - q[0]) / _QUARTILES_TO_SD for q in quartiles]
    else:
        centres = [draws.mean(axis=0) for draws in (before, after)]
        spreads = [draws.std(axis=0, ddof=1) for draws in (before, after)]
    below = (before < quartiles[1][1]).mean(axis=0)
    return [
        Change(
            name,
            before[:, i],
            after[:, i],
            robust,
            (float(centres[0][i]), float(centres[1][i])),
            (float(spreads[0][i]), float(spreads[1][i])),
            float(min(below[i], 1 - below[i])),
        )
        for i, name in enumerate(element_names(posterior))
        if kept[i]
    ]


def _heavy(draws: np.ndarray) -> bool:
    """Whether the element that reaches farthest has so heavy a tail that it has no variance."""
    low, middle, high = np.percentile(draws, (25, 50, 75), axis=0)
    reach = np.abs(draws - middle) / (high - low)
    farthest = draws[:, reach.max(axis=0).argmax()]
    return bool(tail_index(farthest[None]) >= HEAVY)
