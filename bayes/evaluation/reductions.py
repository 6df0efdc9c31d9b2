"""JAX's reductions, sorts and linear algebra in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["REDUCTIONS"]

Params = dict[str, Any]


def _reduce(fn: Callable) -> Callable:
    return lambda p, x: fn(x, axis=tuple(p["axes"]))


def _place(fn: Callable) -> Callable:
    return lambda p, x: fn(x, axis=p["axes"][0])


def _cumulative(fn: Callable) -> Callable:
    def run(p: Params, x: np.ndarray) -> Any:
        axis = p["axis"]
        if not p["reverse"]:
            return fn(x, axis=axis)
        return np.flip(fn(np.flip(x, axis), axis=axis), axis)

    return run


def _sort(p: Params, *operands: np.ndarray) -> list[Any]:
    axis = p["dimension"]
    if p["num_keys"] > 1:
        raise NotImplementedError("a sort by several keys")
    order = np.argsort(operands[0], axis=axis, kind="stable")
    return [np.take_along_axis(o, order, axis=axis) for o in operands]


def _dot(p: Params, x: np.ndarray, y: np.ndarray) -> Any:
    (summed_x, summed_y), (batch_x, batch_y) = p["dimension_numbers"]
    if not batch_x:
        return np.tensordot(x, y, (summed_x, summed_y))
    batch = tuple(x.shape[d] for d in batch_x)
    left, free_x = _matrices(x, batch_x, summed_x, inner_last=True)
    right, free_y = _matrices(y, batch_y, summed_y, inner_last=False)
    return np.matmul(left, right).reshape(batch + free_x + free_y)


def _matrices(
    x: np.ndarray, batch: tuple[int, ...], summed: tuple[int, ...], *, inner_last: bool
) -> tuple[np.ndarray, tuple[int, ...]]:
    free = tuple(d for d in range(x.ndim) if d not in (*batch, *summed))
    order = (*batch, *free, *summed) if inner_last else (*batch, *summed, *free)
    rows, inner = (int(np.prod([x.shape[d] for d in dims], dtype=int)) for dims in (free, summed))
    shape = (rows, inner) if inner_last else (inner, rows)
    outer = tuple(x.shape[d] for d in batch)
    return x.transpose(order).reshape(outer + shape), tuple(x.shape[d] for d in free)


def _cholesky(p: Params, x: np.ndarray) -> Any:
    try:
        return np.linalg.cholesky(x)
    except np.linalg.LinAlgError:
        if x.ndim == 2:
            return np.full(x.shape, np.nan, x.dtype)
        return np.stack([_cholesky(p, one) for one in x])


def _triangular_solve(p: Params, a: np.ndarray, b: np.ndarray) -> Any:
    a = np.tril(a) if p["lower"] else np.triu(a)
    if p["unit_diagonal"]:
        a = a + (1 - np.einsum("...ii->...i", a))[..., None] * np.eye(a.shape[-1])
    a = np.conj(a) if p["conjugate_a"] else a
    transposed = p["transpose_a"] == p["left_side"]
    a = np.swapaxes(a, -1, -2) if transposed else a
    if p["left_side"]:
        return np.linalg.solve(a, b)
    return np.swapaxes(np.linalg.solve(a, np.swapaxes(b, -1, -2)), -1, -2)


REDUCTIONS: dict[str, Callable] = {
    "argmax": _place(np.argmax),
    "argmin": _place(np.argmin),
    "cholesky": _cholesky,
    "cumlogsumexp": _cumulative(np.logaddexp.accumulate),
    "cummax": _cumulative(np.maximum.accumulate),
    "cummin": _cumulative(np.minimum.accumulate),
    "cumprod": _cumulative(np.multiply.accumulate),
    "cumsum": _cumulative(np.add.accumulate),
    "dot_general": _dot,
    "reduce_and": _reduce(np.bitwise_and.reduce),
    "reduce_max": _reduce(np.maximum.reduce),
    "reduce_min": _reduce(np.minimum.reduce),
    "reduce_or": _reduce(np.bitwise_or.reduce),
    "reduce_prod": _reduce(np.multiply.reduce),
    "reduce_sum": _reduce(np.add.reduce),
    "reduce_xor": _reduce(np.bitwise_xor.reduce),
    "sort": _sort,
    "triangular_solve": _triangular_solve,
}
"""Functions of an equation's parameters and inputs, by the name of its primitive."""
