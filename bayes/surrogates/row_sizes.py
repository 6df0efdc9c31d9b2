"""How many rows the data sets have that a surrogate learns from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayes.surrogates.layout import Inputs, Layout
from bayes.surrogates.simulator import Simulator

__all__ = ["row_sizes", "shortened"]

_SMALLEST_ROWS = 64
"""Rows of the smallest batches of data sets of many sizes."""
_WHOLE = 0.25
"""Share of the data sets with all rows."""


def row_sizes(simulator: Simulator) -> list[tuple[int, int]]:
    """Numbers of rows that data sets are drawn with, and those from which on they have so many."""
    largest = simulator.rows
    if not simulator.resizable or largest <= 2 * _SMALLEST_ROWS:
        return [(largest, 1)]
    sizes = [_SMALLEST_ROWS, largest]
    if largest > 16 * _SMALLEST_ROWS:
        sizes.insert(1, round((_SMALLEST_ROWS * largest) ** 0.5))
    return list(zip(sizes, [1, *sizes[:-1]], strict=True))


def shortened(inputs: Inputs, layout: Layout, key: Array, rows: int, below: int) -> Inputs:
    """Data sets with fewer rows: uniform in the logarithm of their number, some with all.

    Parameters
    ----------
    inputs : Inputs
        A batch of data sets with all rows.
    layout : Layout
        Which of its sources may have fewer.
    key : key
        Random key.
    rows, below : int
        One of :func:`row_sizes`: most and fewest rows.

    Returns
    -------
    Inputs
        With smaller counts; the tables stay as they are.
    """
    first, second = jax.random.split(key)
    batch = inputs.counts.shape[0]
    u = jax.random.uniform(first, (batch,))
    low, high = np.log(below), np.log(rows + 1.0)
    count = jnp.clip(jnp.exp(low + u * (high - low)).astype(jnp.int32), 1, rows)
    count = jnp.where(jax.random.uniform(second, (batch,)) < _WHOLE, rows, count)
    flags = np.asarray([source.resizable for source in layout.sources])
    counts = jnp.where(flags[None], count[:, None], inputs.counts)
    return inputs._replace(counts=counts)
