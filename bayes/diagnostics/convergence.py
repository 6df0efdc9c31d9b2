"""R-hat and effective sample sizes of every element, and chains that sit apart."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

__all__ = ["LOG_DENSITY", "Convergence", "constant_elements", "convergence", "separate_groups"]

LOG_DENSITY = "log density"
"""Name under which a chain's log density is assessed."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """Convergence of all elements of all sites.

    Parameters
    ----------
    names : list of str
        Name of every assessed element, such as ``theta[3]``.
    values : array of shape (chain, draw, element)
        The assessed draws.
    rhat, bulk, tail : array of shape (element,)
        Rank-normalised split R-hat, bulk and tail effective sample size (Vehtari et al. 2021).
    """

    names: list[str]
    values: Float[np.ndarray, "chain draw element"]
    rhat: np.ndarray
    bulk: np.ndarray
    tail: np.ndarray

    @property
    def draws(self) -> int:
        """Draws a chain."""
        return self.values.shape[1]

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

    def spread_error(self, judged: list[int]) -> tuple[float, str]:
        """Largest relative Monte Carlo error of a standard deviation, and whose it is.

        With q = (x - mean)^2, the error is sd(q) / (2 mean(q) sqrt(ESS(q))).

        Parameters
        ----------
        judged : list of int
            Elements to judge.
        """
        from arviz_stats.base import array_stats

        values = self.values[..., judged]
        if values.shape[1] < 4 or not judged:
            return float("nan"), "nothing"
        with np.errstate(all="ignore"):
            squares = (values - values.mean(axis=(0, 1))) ** 2
            squares = np.where(np.isfinite(squares), squares, 0.0)
            ess = array_stats.ess(squares, method="mean", chain_axis=0, draw_axis=1)
            error = squares.std(axis=(0, 1)) / (2 * squares.mean(axis=(0, 1)) * np.sqrt(ess))
        error = np.where(np.isfinite(values).all(axis=(0, 1)), error, np.inf)
        place = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        return float(error[place]), self.names[judged[place]]

    def _worst(self, values: np.ndarray, *, largest: bool) -> tuple[float, str]:
        if not len(values):
            return float("nan"), "nothing"
        order = np.where(np.isnan(values), np.inf if largest else -np.inf, values)
        place = int(order.argmax() if largest else order.argmin())
        return float(values[place]), self.names[place]


def constant_elements(values: np.ndarray) -> np.ndarray:
    """Elements with one and the same value in all chains: constant by construction.

    A chain that does not move while others have other values is not among them.
    """
    flat = values.reshape(*values.shape[:2], -1)
    return np.all(flat == flat[:1, :1], axis=(0, 1)) & (flat.shape[0] * flat.shape[1] > 1)


def convergence(posterior: xr.Dataset, lp: np.ndarray | None) -> Convergence:
    """Assess every element of a posterior, and its log density.

    Parameters
    ----------
    posterior : xarray.Dataset
        Variables of dims (chain, draw, ...).
    lp : array of shape (chain, draw), optional
        Log density, which shows chains in different modes.

    Returns
    -------
    Convergence
    """
    from arviz_stats.base import array_stats

    names: list[str] = []
    blocks: list[np.ndarray] = []
    for name, variable in posterior.data_vars.items():
        values = variable.transpose("chain", "draw", ...).values
        shape = values.shape[2:]
        kept = ~constant_elements(values)
        labels = [
            f"{name}[{','.join(map(str, index))}]" if index else str(name)
            for index in itertools.product(*map(range, shape))
        ]
        names += [label for label, keep in zip(labels, kept, strict=True) if keep]
        blocks.append(values.reshape(*values.shape[:2], -1)[..., kept])
    if lp is not None:
        names.append(LOG_DENSITY)
        blocks.append(lp[..., None])
    values = np.concatenate(blocks, axis=2).astype(float)
    empty = np.full(values.shape[2], np.nan)
    if values.shape[1] < 4:
        return Convergence(names, values, empty, empty, empty)
    infinite = ~np.isfinite(values).all(axis=(0, 1))
    finite = np.where(infinite, 0.0, values)
    with np.errstate(all="ignore"):
        axes: dict[str, Any] = {"chain_axis": 0, "draw_axis": 1}
        rhat = empty if values.shape[0] < 2 else array_stats.rhat(finite, **axes)
        bulk = array_stats.ess(finite, method="bulk", **axes)
        tail = array_stats.ess(finite, method="tail", prob=(0.05, 0.95), **axes)
    # A chain that does not move is stuck, however smooth the others are.
    bad = infinite | (np.ptp(finite, axis=1).min(axis=0) == 0)
    rhat = np.where(bad, np.inf, rhat) if values.shape[0] > 1 else rhat
    bulk, tail = np.where(bad, 0.0, bulk), np.where(bad, 0.0, tail)
    if lp is not None:
        # The log density shows chains in different modes; nobody needs its mean.
        bulk[-1] = tail[-1] = np.inf
    return Convergence(names, values, np.asarray(rhat), np.asarray(bulk), np.asarray(tail))


def separate_groups(found: Convergence) -> tuple[list[list[int]], str]:
    """Groups of chains that sit apart from each other at the element that mixed worst.

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
    value, name = found.worst_rhat
    if not value > 1.05:
        return [], ""
    draws = found.values[..., found.names.index(name)]
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
