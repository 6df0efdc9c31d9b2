"""Products of a tensor with one matrix or vector a mode, without the Kronecker product of these.

Modes are the trailing axes of a tensor; what stands before them is a batch. Row-major order holds:
``kron(H_1, ..., H_I) @ x.ravel()`` is ``mode_products(x, [H_1, ..., H_I]).ravel()``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

__all__ = ["cheapest_order", "contract", "mode_products", "of_one_rank", "scale_modes"]


def mode_products(tensor: Any, factors: Sequence[Any], trailing: int = 0) -> Array:
    """Multiply every mode of a tensor by its matrix.

    Parameters
    ----------
    tensor : array of shape (..., N_1, ..., N_I, *trailing)
        A tensor, or several of them with leading dimensions.
    factors : sequence of array of shape (M_i, N_i)
        The matrices, one a mode.
    trailing : int
        Axes behind the modes that are left as they are.

    Returns
    -------
    array of shape (..., M_1, ..., M_I, *trailing)

    References
    ----------
    Kolda and Bader (2009), Tensor decompositions and applications, section 2.5.
    """
    result = jnp.asarray(tensor)
    for mode in cheapest_order([np.shape(factor) for factor in factors]):
        axis = mode - len(factors) - trailing
        product = jnp.tensordot(result, jnp.asarray(factors[mode]), axes=((axis,), (1,)))
        result = jnp.moveaxis(product, -1, axis)
    return result


def cheapest_order(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """The order of mode products that takes the fewest multiplications.

    Before the product of a mode, the cost of another is N_i / M_i times what it is after it. Of two
    neighbours in an order, the one with the larger 1/M - 1/N therefore comes first.

    Parameters
    ----------
    shapes : sequence of (M_i, N_i)
        Shapes of the matrices.

    Returns
    -------
    list of int
        Modes, the first to be multiplied first.
    """
    gains = [1.0 / max(rows, 1) - 1.0 / max(columns, 1) for rows, columns in shapes]
    return sorted(range(len(shapes)), key=lambda mode: -gains[mode])


def contract(tensor: Any, weights: Sequence[Any]) -> Array:
    """Sum a tensor over its modes, with a weight for every index of a mode.

    Parameters
    ----------
    tensor : array of shape (..., N_1, ..., N_I)
        A tensor, or several of them with leading dimensions.
    weights : sequence of array of shape (..., N_i)
        The weights, one array a mode; leading dimensions broadcast with those of the tensor.

    Returns
    -------
    array of shape (...)
    """
    result = jnp.asarray(tensor)
    for mode in reversed(range(len(weights))):
        # One column a tensor of the batch; modes to the left are rows.
        lead, rows = result.shape[: result.ndim - mode - 1], result.shape[result.ndim - mode - 1 :]
        flat = result.reshape(*lead, math.prod(rows[:-1]), rows[-1])
        flat, column = of_one_rank(flat, jnp.asarray(weights[mode])[..., None])
        summed = jnp.matmul(flat, column)[..., 0]
        result = summed.reshape(*summed.shape[:-1], *rows[:-1])
    return result


def scale_modes(tensor: Any, weights: Sequence[Any], trailing: int = 0) -> Array:
    """Multiply a tensor by the outer product of vectors, one a mode.

    Parameters
    ----------
    tensor : array of shape (..., N_1, ..., N_I, *trailing)
        A tensor, or several of them with leading dimensions.
    weights : sequence of array of shape (..., N_i)
        The vectors; leading dimensions broadcast with those of the tensor.
    trailing : int
        Axes behind the modes.

    Returns
    -------
    array of shape (..., N_1, ..., N_I, *trailing)
    """
    result = jnp.asarray(tensor)
    for mode, given in enumerate(weights):
        vector = jnp.asarray(given)
        lead, size = vector.shape[:-1], vector.shape[-1]
        after = (1,) * (len(weights) - mode - 1 + trailing)
        vector = vector.reshape(*lead, *(1,) * mode, size, *after)
        result, vector = of_one_rank(result, vector)
        result = result * vector
    return result


def of_one_rank(*arrays: Any) -> list[Array]:
    """The arrays with leading dimensions of size 1 where others have more dimensions."""
    rank = max(np.ndim(array) for array in arrays)
    return [jnp.asarray(a)[(None,) * (rank - np.ndim(a))] for a in arrays]
