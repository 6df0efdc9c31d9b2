"""Elements of sites: what they are called, where they are, and whether they should move."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool, Float

from bayes.stored_draws import StoredDraws

__all__ = ["draws_in_words", "element_draws", "element_labels", "locate", "resting_elements"]


def draws_in_words(chains: int, draws: int) -> str:
    """How many draws there are, for a reader."""
    return f"{chains} chains of {draws} draws" if chains > 1 else f"{draws} draws"


def element_labels(name: str, shape: tuple[int, ...], kept: np.ndarray) -> list[str]:
    """Names of the elements of a site that are kept, such as ``theta[3]``."""
    if not shape:
        return [name] if kept[0] else []
    indices = itertools.compress(itertools.product(*map(range, shape)), kept)
    return [f"{name}[{','.join(map(str, index))}]" for index in indices]


def locate(name: str, sites: Collection[str]) -> tuple[str, tuple[int, ...]]:
    """The site of an element such as ``theta[3]``, and where in the site it is."""
    if name in sites:
        return name, ()
    site, _, index = name.removesuffix("]").rpartition("[")
    return site, tuple(map(int, index.split(",")))


def element_draws(
    name: str, sites: Mapping[str, np.ndarray | StoredDraws]
) -> Float[np.ndarray, "chain draw"]:
    """Draws of an element, by its name."""
    site, index = locate(name, sites)
    box = (slice(i, i + 1) for i in index)
    draws = sites[site]
    found = np.asarray(draws[(slice(None), slice(None), *box)], float)
    return found.reshape(draws.shape[0], draws.shape[1])


def resting_elements(
    name: str, first: np.ndarray, constant: Bool[np.ndarray, " element"]
) -> tuple[str, ...]:
    """Names of the elements of a sampled site that have one value and should have others.

    Parameters
    ----------
    name : str
        The site.
    first : array of the site's shape
        Its first draw.
    constant : array of bool, shape (element,)
        Elements with the same value in all draws.

    Returns
    -------
    tuple of str
        Without those of a discrete site, of which one value may have all the mass, and without
        zeros and ones beside elements that move: a Cholesky factor of correlations has some.
    """
    if first.dtype.kind != "f" or not constant.any():
        return ()
    if not constant.all():
        constant = constant & ~np.isin(first.reshape(-1), (0.0, 1.0))
    return tuple(element_labels(name, first.shape, constant))
