"""How well standard deviations are known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.blocks import by_block, halves
from bayes.diagnostics.effective_size import centre, effective_size

__all__ = ["spread_errors"]


def spread_errors(
    values: Float[np.ndarray, "chain draw element"],
) -> Float[np.ndarray, " element"]:
    """Relative Monte Carlo errors of standard deviations.

    With q = (x - mean)^2, the error is sd(q) / (2 mean(q) sqrt(ESS(q))).

    Parameters
    ----------
    values : array of shape (chain, draw, element)
        Draws.

    Returns
    -------
    array of shape (element,)
        NaN where there are fewer than 4 draws a chain.
    """
    return by_block(values, _spread_errors, 1)[0]


def _spread_errors(rows: np.ndarray) -> np.ndarray:
    squares = np.square(rows - rows.mean(axis=(1, 2), keepdims=True))
    squares[~np.isfinite(squares)] = 0.0
    size = effective_size(centre(halves(squares)))
    deviation, mean = squares.std(axis=(1, 2)), squares.mean(axis=(1, 2))
    return (deviation / (2 * mean * np.sqrt(size)))[None]
