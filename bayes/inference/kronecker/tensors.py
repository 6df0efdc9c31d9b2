"""Products of tensors with matrices along one axis, which is what Kronecker products come down to.

A leading axis is for snapshots: axis 0 of the factors is axis 1 of a tensor of observations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

__all__ = ["along", "contracted", "mode_product", "outer"]


def mode_product(tensor: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """The tensor with an axis replaced by the matrix times it.

    Parameters
    ----------
    tensor : array of shape (..., n, ...)
        The tensor; ``n`` is the length of ``axis``.
    matrix : array of shape (m, n)
        The matrix.
    axis : int
        Which axis, counted from the front.

    Returns
    -------
    array of shape (..., m, ...)
    """
    shape = tensor.shape
    lead, trail = shape[:axis], shape[axis + 1 :]
    if not trail:
        return tensor @ matrix.T
    flat = tensor.reshape(-1, shape[axis], int(np.prod(trail)))
    return (matrix @ flat).reshape(*lead, len(matrix), *trail)


def along(tensor: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """The tensor times a matrix along each axis after the first one.

    Those that make it smaller come first.

    Parameters
    ----------
    tensor : array of shape (L, n_1, ..., n_I)
        The tensor.
    matrices : sequence of array of shape (m_i, n_i)
        One an axis.

    Returns
    -------
    array of shape (L, m_1, ..., m_I)
    """
    growth = [m.shape[0] / max(m.shape[1], 1) for m in matrices]
    for axis in np.argsort(growth, kind="stable").tolist():
        tensor = mode_product(tensor, matrices[axis], axis + 1)
    return tensor


def outer(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The outer product of vectors, of shape (n_1, ..., n_I)."""
    return functools.reduce(np.multiply.outer, vectors)


def contracted(tensor: np.ndarray, vectors: Sequence[np.ndarray], kept: int) -> np.ndarray:
    """The tensor contracted with a vector along each axis but one.

    Parameters
    ----------
    tensor : array of shape (n_1, ..., n_I)
        The tensor; along the kept axis its length may differ from the vector's.
    vectors : sequence of array of shape (n_i,)
        One an axis.
    kept : int
        The axis that stays.

    Returns
    -------
    array of shape (n_kept,)
    """
    for vector in vectors[:kept:-1]:
        tensor = tensor @ vector
    for vector in vectors[:kept]:
        tensor = np.tensordot(vector, tensor, 1)
    return tensor
