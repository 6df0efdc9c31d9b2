"""Group indices that lie outside the array they index.

JAX clamps an index beyond the end and wraps one below zero, so a wrong group code gives a wrong
posterior in silence. Here the log density runs once with every index checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import checkify

from bayes.columns import rows_text
from bayes.data import Data
from bayes.errors import DataError

__all__ = ["check_indices"]

_BEYOND = 2**30


def check_indices(
    log_density: Callable[[Any, Any], Any], position: Any, data: Data
) -> str | None:
    """Refuse data that index an array outside its bounds.

    Parameters
    ----------
    log_density : callable
        Function of (position, arrays).
    position : array of shape (d,)
        Any position.
    data : Data
        The data whose integer columns may be indices.

    Returns
    -------
    str or None
        A note where the check could not be made.

    Raises
    ------
    DataError
        Names the column, the rows and the size of the array that is indexed.
    """
    integer = {
        name: value
        for name, value in data.arrays.items()
        if isinstance(value, (np.ndarray, jax.Array)) and value.dtype.kind in "iu"
    }
    if not integer:
        return None
    try:
        if not _indexes(log_density, position, data.arrays):
            return None
        checked = checkify.checkify(log_density, errors=checkify.index_checks)
        message = checked(position, data.arrays)[0].get()
    except Exception as error:  # checkify does not know every primitive
        return f"indices were not checked against their arrays ({type(error).__name__})"
    if message is not None:
        raise _out_of_range(message, integer, data)
    negative = {n: v for n, v in integer.items() if (v < 0).any()}
    if negative:
        # A negative index counts from the end. Replace it by one far beyond: if that is an
        # error, the column is an index.
        for name, value in negative.items():
            shifted = {**data.arrays, name: np.where(value < 0, _BEYOND, value)}
            if checked(position, shifted)[0].get() is not None:
                rows = np.flatnonzero(np.atleast_1d(value < 0))
                raise DataError(
                    f"column '{name}' is used as an index and has negative values "
                    f"({rows_text(rows, data.columns[name].labels)}); indices count from 0"
                )
    return None


def _indexes(log_density: Callable, position: Any, arrays: Mapping[str, Any]) -> bool:
    text = str(jax.make_jaxpr(log_density)(position, arrays))
    return any(word in text for word in (" gather[", " scatter", " dynamic_slice[", " take"))


def _out_of_range(message: str, integer: Mapping[str, np.ndarray], data: Data) -> DataError:
    first = message.split("\n")[0]
    shape = re.search(r"shape \(([\d, ]*)\)", first)
    sizes = [int(n) for n in shape.group(1).split(",") if n.strip()] if shape else []
    found = re.search(r"index (-?\d+) is out of bounds for axis \d+ with size (\d+)", first)
    index, size = (int(found.group(1)), int(found.group(2))) if found else (None, None)
    limit = size if size is not None else (max(sizes) if sizes else None)
    for name, value in integer.items():
        if limit is None:
            break
        wrong = (value >= limit) | (value < -limit)
        hit = index is None or bool((value == index).any() or (value == index - limit).any())
        if wrong.any() and hit:
            rows = np.unique(np.nonzero(np.atleast_1d(wrong))[0])
            return DataError(
                f"column '{name}' is used as an index into an array of size {limit}, but has "
                f"values from {value.min()} to {value.max()} "
                f"({rows_text(rows, data.columns[name].labels)}); indices count from 0"
            )
    return DataError(f"the program indexes an array out of its bounds: {first}")
