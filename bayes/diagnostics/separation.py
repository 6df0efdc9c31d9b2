"""Chains that do not agree: which, at what, and why more draws will not bring them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayes.diagnostics.convergence import (
    APART,
    LOG_DENSITY,
    Convergence,
    separate_groups,
    telling_place,
)
from bayes.diagnostics.labels import exchanged_sites
from bayes.diagnostics.verdict import Check
from bayes.stored_draws import StoredDraws

__all__ = ["Separation", "check_agreement", "find_separation"]

_FAR = 1e6
"""How far chains that do not agree reach before their posterior is suspected to be improper."""


class Separation(NamedTuple):
    """Why chains do not agree.

    Parameters
    ----------
    groups : list of list of int
        Chains that sit together; empty where they are not apart.
    where : str
        The element that shows it.
    brief : str
        Why more draws will not help, in few words; empty where they may.
    why : str
        The same at length.
    """

    groups: list[list[int]]
    where: str
    brief: str
    why: str


def find_separation(
    found: Convergence, sites: Mapping[str, np.ndarray | StoredDraws]
) -> Separation:
    """See why chains do not agree.

    Parameters
    ----------
    found : Convergence
        Convergence of all chains.
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).

    Returns
    -------
    Separation
    """
    groups, where = separate_groups(found)
    place = telling_place(found.rhat, found.names) if found.names else None
    if place is None or not found.rhat[place] > APART:
        return Separation([], "", "", "")
    exchanged = ", ".join(exchanged_sites(found, sites))
    if exchanged:
        brief = f"label switching: order the components of {exchanged}"
        why = (
            f"label switching: chains agree on {exchanged} once the elements are sorted in every "
            "draw; order the components (give one of these sites an ordered support, by "
            "OrderedTransform), or report only what does not depend on their order"
        )
        return Separation(groups, where, brief, why)
    name, reach = found.names[place], np.abs(found.slowest).max()
    if name != LOG_DENSITY and _FAR < reach < np.inf:
        brief = (
            f"draws of {name} wander off, as far as {reach:.1e}: the posterior is improper unless "
            f"such values make sense; give {name} a proper prior"
        )
        return Separation(groups, where, brief, brief)
    why = (
        "several modes, or stuck; running longer will not help: reparametrise, order or constrain "
        "what may be exchanged, or give better starts (init_strategy=)"
    )
    return Separation(groups, where, "chains sit apart: see stuck_chains" if groups else "", why)


def check_agreement(
    lp: np.ndarray | None, separation: Separation, info: Mapping[str, Any]
) -> Check:
    """Whether chains sit apart from each other, named where they do.

    Parameters
    ----------
    lp : array of shape (chain, draw), optional
        Log density.
    separation : Separation
        What keeps them apart.
    info : mapping
        What the method found out: ``copies``, how often a chain was put where another was.

    Returns
    -------
    Check
    """
    groups, where = separation.groups, separation.where
    copies = [chain for chain, times in enumerate(info.get("copies") or []) if times]
    if not groups and len(copies) < 2:
        return Check("stuck_chains", 0.0, 0.0, True)
    if not groups:
        names = ", ".join(map(str, copies))
        return Check(
            "stuck_chains",
            float(len(copies)),
            1.0,
            False,
            f"chains {names} never left where there is no mass and were put where others were: too "
            "few found their own way; give better starts (init_strategy=) or a longer warmup",
        )
    smallest = min(groups, key=len)
    names = ", ".join(map(str, smallest))
    shift = ""
    if lp is not None:
        rest = np.delete(lp, smallest, axis=0)
        shift = f" (mean log density {lp[smallest].mean() - rest.mean():+.1f})"
    who = f"chain {names} sits" if len(smallest) == 1 else f"chains {names} sit"
    return Check(
        "stuck_chains",
        float(len(smallest)),
        0.0,
        False,
        f"{who} apart from the others at {where}{shift}: {separation.why}",
    )
