"""What ranks say, quantity by quantity and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from bayes.calibration.uniformity import adjust, chi_square_test, ecdf_test

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEVEL", "LEVELS", "contraction_table", "coverage_table", "uniformity_table"]

LEVEL = 0.01
"""Probability that the ranks of a right program and method fail, a run. It is a little more where
the p values of the chi-square test, an approximation, are very small."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Masses of the central intervals whose coverage is looked at."""
_CLEAR = 3.0
"""Standard errors from which on a shape is named."""


def uniformity_table(
    labels: list[str], ranks: Int[np.ndarray, "n element"], draws: int
) -> pd.DataFrame:
    """Tests of uniform ranks, adjusted over all elements, and the shape where they fail.

    Parameters
    ----------
    labels : list of str
        Names of the elements.
    ranks : array of shape (n, element)
        Ranks in 0..draws.
    draws : int
        Draws that each truth was ranked among.

    Returns
    -------
    pandas.DataFrame
        One row an element: ``p_chi2``, ``p_ecdf``, ``p_adjusted`` (Bonferroni over both tests and
        Holm over elements), ``ok`` and ``shape``.
    """
    import pandas as pd

    columns = ranks.T
    table = pd.DataFrame(
        {
            "p_chi2": [chi_square_test(r, draws) for r in columns],
            "p_ecdf": [ecdf_test(r, draws) for r in columns],
        },
        index=pd.Index(labels, name="element"),
    )
    smaller = np.minimum(table["p_chi2"].to_numpy(), table["p_ecdf"].to_numpy())
    table["p_adjusted"] = adjust(np.minimum(1.0, 2 * smaller))
    table["ok"] = table["p_adjusted"] >= LEVEL
    shapes = [_shape(r, draws) for r in columns]
    table["shape"] = ["" if ok else s for ok, s in zip(table["ok"], shapes, strict=True)]
    return table


def _shape(ranks: Int[np.ndarray, " n"], draws: int) -> str:
    """How the posteriors of an element are wrong, from the ranks' normal scores.

    Their mean and spread are those of z scores where posteriors are normal.
    """
    from scipy.special import ndtri

    scores, n = ndtri((ranks + 0.5) / (draws + 1)), len(ranks)
    shift = scores.mean() / max(1.0, scores.std()) * np.sqrt(n)
    spread = np.log(max(scores.std(), 1e-3)) * np.sqrt(2 * n)
    words = []
    if spread > _CLEAR:
        words.append("too narrow")
    elif spread < -_CLEAR and abs(shift) < _CLEAR:  # ranks that all lie at one end vary little
        words.append("too wide")
    if abs(shift) > _CLEAR:
        words.append("too low" if shift > 0 else "too high")
    return " and ".join(words) or "of another shape"


def coverage_table(labels: list[str], below: Float[np.ndarray, "n element"]) -> pd.DataFrame:
    """Share of the truths that lie in the central intervals of their posteriors.

    Parameters
    ----------
    labels : list of str
        Names of the elements.
    below : array of shape (n, element)
        Share of the posterior below the truth.

    Returns
    -------
    pandas.DataFrame
        One row an element, one column a mass of the interval.
    """
    import pandas as pd

    outward = 2 * np.abs(below - 0.5)
    shares = {f"{level:.0%}": (outward <= level).mean(axis=0) for level in LEVELS}
    return pd.DataFrame(shares, index=pd.Index(labels, name="element"))


def contraction_table(
    labels: list[str],
    z: Float[np.ndarray, "n element"],
    contraction: Float[np.ndarray, "n element"],
) -> pd.DataFrame:
    """Z scores and contraction of the posteriors, over all simulations.

    Parameters
    ----------
    labels : list of str
        Names of the elements.
    z, contraction : array of shape (n, element)
        Those of every simulation.

    Returns
    -------
    pandas.DataFrame
        Mean and standard deviation of the z scores, about 0 and 1 where posteriors are nearly
        normal, and the median contraction: 0 where data teach nothing, 1 where they teach all.
    """
    import pandas as pd

    columns = {
        "z_mean": z.mean(axis=0),
        "z_sd": z.std(axis=0, ddof=1),
        "contraction": np.median(contraction, axis=0),
    }
    return pd.DataFrame(columns, index=pd.Index(labels, name="element"))
