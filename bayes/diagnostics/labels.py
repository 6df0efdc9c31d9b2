"""Label switching: chains that agree but for the order of the elements of a site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.convergence import APART, LOG_DENSITY, Convergence
from bayes.diagnostics.elements import locate
from bayes.diagnostics.ranks import rank_rhat
from bayes.stored_draws import StoredDraws

__all__ = ["exchanged_sites"]

_MOST_SITES, _MOST_LABELS = 5, 50


def exchanged_sites(
    found: Convergence, sites: Mapping[str, np.ndarray | StoredDraws]
) -> tuple[str, ...]:
    """Sites whose elements do not agree between chains until they are sorted in every draw.

    Only elements that do not agree are sorted. Sorting keeps their sum, so elements that fail each
    for a reason of its own fail when they are sorted, too.

    Parameters
    ----------
    found : Convergence
        Convergence of all elements.
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).

    Returns
    -------
    tuple of str
        Worst first; of the five sites that mixed worst.
    """
    apart: dict[str, dict[tuple[int, ...], float]] = {}
    for place in np.flatnonzero(np.isfinite(found.rhat) & (found.rhat > APART)):
        if found.names[place] == LOG_DENSITY:
            continue
        site, index = locate(found.names[place], sites)
        if index:
            apart.setdefault(site, {})[index] = float(found.rhat[place])
    worst = sorted(apart, key=lambda site: -max(apart[site].values()))[:_MOST_SITES]
    return tuple(
        site for site in worst if any(map(_agree_sorted, _lines(sites[site], apart[site])))
    )


def _lines(
    draws: np.ndarray | StoredDraws, apart: Mapping[tuple[int, ...], float]
) -> Iterator[Float[np.ndarray, "chain draw label"]]:
    """The elements apart that lie in one line with the worst of them, along each dimension."""
    worst = max(apart, key=lambda index: apart[index])
    for axis in range(len(worst)):
        line = sorted(
            index[axis]
            for index in apart
            if index[:axis] == worst[:axis] and index[axis + 1 :] == worst[axis + 1 :]
        )
        if 2 <= len(line) <= _MOST_LABELS:
            box: list = [slice(i, i + 1) for i in worst]
            box[axis] = np.array(line)
            values = np.asarray(draws[(slice(None), slice(None), *box)], float)
            yield values.reshape(*values.shape[:2], len(line))


def _agree_sorted(values: Float[np.ndarray, "chain draw label"]) -> bool:
    return bool(np.all(rank_rhat(np.sort(values, axis=2)) < APART))
