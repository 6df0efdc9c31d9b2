"""R-hat and effective sample sizes of every element, and chains that sit apart."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool, Float

from bayes.diagnostics.elements import element_labels, resting_elements
from bayes.diagnostics.ranks import rank_statistics
from bayes.diagnostics.spread import spread_errors

__all__ = [
    "APART",
    "LOG_DENSITY",
    "Convergence",
    "constant_elements",
    "convergence",
    "separate_groups",
    "telling_place",
    "worst_place",
]

APART = 1.05
"""R-hat above which chains are looked at for being in different places."""

LOG_DENSITY = "log density"
"""Name under which a chain's log density is assessed."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """Convergence of all elements of all sites.

    Parameters
    ----------
    names : list of str
        Name of every assessed element, such as ``theta[3]``.
    slowest : array of shape (chain, draw)
        Draws of the element of ``telling_place``.
    rhat, bulk, tail : array of shape (element,)
        Rank-normalised split R-hat, bulk and tail effective sample size (Vehtari et al. 2021).
    spread : array of shape (element,)
        Relative Monte Carlo error of the standard deviation; -inf where it is not judged.
    constant : int
        Number of elements with one value in all draws, which are not assessed.
    resting : tuple of str
        Those of them that should have moved.
    """

    names: list[str]
    slowest: Float[np.ndarray, "chain draw"]
    rhat: np.ndarray
    bulk: np.ndarray
    tail: np.ndarray
    spread: np.ndarray
    constant: int
    resting: tuple[str, ...]

    @property
    def draws(self) -> int:
        """Draws a chain."""
        return self.slowest.shape[1]

    @property
    def worst_rhat(self) -> tuple[float, str]:
        """Largest R-hat and whose it is; NaN counts as worst."""
        return self._worst(self.rhat, largest=True)

    @property
    def worst_bulk(self) -> tuple[float, str]:
        """Smallest bulk effective sample size and whose it is."""
        return self._worst(self.bulk, largest=False)

    @property
    def worst_tail(self) -> tuple[float, str]:
        """Smallest tail effective sample size and whose it is."""
        return self._worst(self.tail, largest=False)

    @property
    def worst_spread(self) -> tuple[float, str]:
        """Largest relative error of a standard deviation that is judged, and whose it is."""
        if np.all(self.spread == -np.inf):
            return float("nan"), "nothing"
        return self._worst(self.spread, largest=True)

    def _worst(self, values: np.ndarray, *, largest: bool) -> tuple[float, str]:
        if not len(values):
            return float("nan"), "nothing"
        place = worst_place(values, largest=largest)
        return float(values[place]), self.names[place]


def worst_place(values: np.ndarray, *, largest: bool) -> int:
    """Where the largest or smallest of some statistics is; NaN counts as worst."""
    order = np.where(np.isnan(values), np.inf if largest else -np.inf, values)
    return int(order.argmax() if largest else order.argmin())


def telling_place(rhat: np.ndarray, names: list[str]) -> int:
    """Where the largest R-hat is: of the sites where theirs tells enough, for one can act on them.

    Parameters
    ----------
    rhat : array of shape (element,)
        R-hat.
    names : list of str
        Names of the elements, the log density last where it is among them.
    """
    own = rhat[:-1] if names[-1] == LOG_DENSITY else rhat
    if len(own):
        place = worst_place(own, largest=True)
        if not own[place] <= APART:
            return place
    return worst_place(rhat, largest=True)


def constant_elements(values: np.ndarray) -> Bool[np.ndarray, " element"]:
    """Elements with one and the same value in all chains.

    A chain that does not move while others have other values is not among them.
    """
    flat = values.reshape(*values.shape[:2], -1)
    if flat.shape[0] * flat.shape[1] < 2:
        return np.zeros(flat.shape[2], dtype=bool)
    # Most elements differ between their first draw and their last: the rest is soon looked at.
    found = flat[0, 0] == flat[-1, -1]
    if found.any():
        found[found] = np.all(flat[..., found] == flat[0, 0, found], axis=(0, 1))
    return found


def convergence(
    sites: Mapping[str, np.ndarray],
    lp: np.ndarray | None,
    sampled: Collection[str] | None = None,
) -> Convergence:
    """Assess every element of a posterior, and its log density.

    Parameters
    ----------
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).
    lp : array of shape (chain, draw), optional
        Log density, which shows chains in different modes.
    sampled : collection of str, optional
        Sites that should move and whose standard deviations are judged. By default all are judged,
        and none has to move: a derived quantity may have no variance, or one value.

    Returns
    -------
    Convergence
    """
    kept = {name: ~constant_elements(values) for name, values in sites.items()}
    names = [
        label for name in sites for label in element_labels(name, sites[name].shape[2:], kept[name])
    ]
    sizes = [int(mask.sum()) for mask in kept.values()]
    constant = sum(len(mask) for mask in kept.values()) - len(names)
    resting = tuple(
        label
        for name in sites
        if sampled is not None and name in sampled
        for label in resting_elements(name, np.asarray(sites[name][0, 0]), ~kept[name])
    )
    chains, draws = next(iter(sites.values())).shape[:2]
    # Draws of an element lie together in memory, and what is computed of them reads them in order.
    rows = np.empty((len(names) + (lp is not None), chains, draws))
    for name, start, size in zip(sites, np.cumsum([0, *sizes]), sizes, strict=False):
        elements = np.moveaxis(sites[name].reshape(chains, draws, -1), 2, 0)
        rows[start : start + size] = elements if kept[name].all() else elements[kept[name]]
    values = np.moveaxis(rows, 0, 2)
    judged = np.repeat([sampled is None or name in sampled for name in sites], sizes)
    spread = np.full(len(rows), -np.inf)
    if lp is not None:
        names.append(LOG_DENSITY)
        rows[-1] = lp
    if draws < 4:
        empty = np.full(len(rows), np.nan)
        slowest = rows[0] if len(rows) else np.empty((chains, draws))
        return Convergence(names, slowest, empty, empty, empty, spread, constant, resting)
    with np.errstate(invalid="ignore"):
        lowest, highest = rows.min(axis=2), rows.max(axis=2)
    infinite = ~(np.isfinite(lowest) & np.isfinite(highest)).all(axis=1)
    found = rank_statistics(values)
    # A chain that does not move is stuck, however smooth the others are.
    bad = infinite | _stuck(rows, lowest == highest)
    rhat = np.where(bad, np.inf, found.rhat) if chains > 1 else found.rhat
    bulk, tail = np.where(bad, 0.0, found.bulk), np.where(bad, 0.0, found.tail)
    places = np.flatnonzero(judged)
    everything = values[..., : len(judged)]
    spread[places] = spread_errors(everything if judged.all() else everything[..., judged])
    spread[places[infinite[places]]] = np.inf
    if lp is not None:
        # The log density shows chains in different modes; nobody needs its mean.
        bulk[-1] = tail[-1] = np.inf
    slowest = rows[telling_place(rhat, names)] if len(rows) else np.empty((chains, draws))
    # A copy: a view would hold the rows of all elements.
    return Convergence(names, slowest.copy(), rhat, bulk, tail, spread, constant, resting)


def _stuck(
    rows: Float[np.ndarray, "element chain draw"], still: Bool[np.ndarray, "element chain"]
) -> Bool[np.ndarray, " element"]:
    """Elements with a chain that does not move.

    One that has, all the while, the value that the moving chains mostly have is not stuck: a
    discrete site's other values are rare.
    """
    found = still.any(axis=1)
    for place in np.flatnonzero(found & ~still.all(axis=1)):
        resting, moving = rows[place, still[place]], rows[place, ~still[place]]
        usual = resting[0, 0]
        found[place] = bool((resting[:, 0] != usual).any() or (moving == usual).mean() <= 0.5)
    return found


def separate_groups(found: Convergence) -> tuple[list[list[int]], str]:
    """Groups of chains that sit apart from each other at the element that tells it best.

    Chains are ordered by their medians; a gap that is wide beside the chains' own spread parts
    them.

    Parameters
    ----------
    found : Convergence
        Convergence of all chains.

    Returns
    -------
    groups : list of list of int
        Empty where all chains are together.
    name : str
        The element that shows it.
    """
    if not found.names:
        return [], ""
    place = telling_place(found.rhat, found.names)
    if not found.rhat[place] > APART:
        return [], ""
    name, draws = found.names[place], found.slowest
    if not np.isfinite(draws).all():
        return [], ""
    low, centre, high = np.quantile(draws, [0.1, 0.5, 0.9], axis=1)
    order = np.argsort(centre)
    groups = [[int(order[0])]]
    for before, chain in itertools.pairwise(order):
        apart = low[chain] > high[before]
        if apart:
            groups.append([])
        groups[-1].append(int(chain))
    return ([sorted(g) for g in groups], name) if len(groups) > 1 else ([], "")
