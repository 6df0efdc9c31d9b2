"""Gather, scatter and slices at computed places in NumPy, with every place checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["INDEXING", "OutOfBounds"]


class OutOfBounds(IndexError):
    """A place lies outside of the array it is in."""


def _require_inside(start: np.ndarray, size: int, length: int) -> None:
    if start.size and (start.min() < 0 or start.max() > length - size):
        raise OutOfBounds(f"{start.min()} to {start.max()} in a dimension of size {length}")


def _places(
    indices: np.ndarray,
    shape: tuple[int, ...],
    sizes: Sequence[int],
    start_map: Sequence[int],
    windows: dict[int, int],
    batched: dict[int, int],
    rank: int,
) -> tuple[np.ndarray, ...]:
    """Places along every dimension of an array of the elements that are taken from it.

    Parameters
    ----------
    indices : array
        Where windows begin; the last dimension runs over ``start_map``.
    shape, sizes : tuple of int
        Shape of the array, and of a window of it.
    start_map : sequence of int
        Dimensions of the array that the indices are of.
    windows : dict of int
        By dimension of the array that runs through the window, the dimension of the result.
    batched : dict of int
        By dimension of the array that goes along with one of the indices, that one.
    rank : int
        Dimensions of the result.
    """
    outer = [d for d in range(rank) if d not in windows.values()]
    around = dict(zip(outer, indices.shape[:-1], strict=True))
    places = []
    for dim, length in enumerate(shape):
        place = np.zeros((), np.int64)
        if dim in start_map:
            start = indices[..., start_map.index(dim)].astype(np.int64)
            _require_inside(start, sizes[dim], length)
            place = start.reshape([around.get(d, 1) for d in range(rank)])
        elif dim in batched:
            place = _along(outer[batched[dim]], length, rank)
        if dim in windows:
            place = place + _along(windows[dim], sizes[dim], rank)
        places.append(place)
    return tuple(places)


def _along(dim: int, length: int, rank: int) -> np.ndarray:
    return np.arange(length).reshape([length if d == dim else 1 for d in range(rank)])


def _plain(dims: Sequence[Any]) -> tuple[int, ...]:
    return tuple(map(int, dims))  # some of JAX's are NumPy's integers


def _pairs(dims: Sequence[Any], others: Sequence[Any]) -> dict[int, int]:
    return dict(zip(_plain(dims), _plain(others), strict=True))


def _gather(p: dict[str, Any], operand: np.ndarray, indices: np.ndarray) -> Any:
    numbers = p["dimension_numbers"]
    offsets = _plain(numbers.offset_dims)
    left_out = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [d for d in range(operand.ndim) if d not in left_out]
    places = _places(
        indices,
        operand.shape,
        p["slice_sizes"],
        _plain(numbers.start_index_map),
        dict(zip(kept, offsets, strict=True)),
        _pairs(numbers.operand_batching_dims, numbers.start_indices_batching_dims),
        indices.ndim - 1 + len(offsets),
    )
    return operand[places]


def _scatter(combine: Any) -> Callable:
    def scatter(
        p: dict[str, Any], operand: np.ndarray, indices: np.ndarray, updates: np.ndarray
    ) -> Any:
        numbers = p["dimension_numbers"]
        windows = _plain(numbers.update_window_dims)
        left_out = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        kept = [d for d in range(operand.ndim) if d not in left_out]
        sizes = [1] * operand.ndim
        for dim, along in zip(kept, windows, strict=True):
            sizes[dim] = updates.shape[along]
        places = _places(
            indices,
            operand.shape,
            sizes,
            _plain(numbers.scatter_dims_to_operand_dims),
            dict(zip(kept, windows, strict=True)),
            _pairs(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims),
            updates.ndim,
        )
        out = np.array(operand)
        if combine is None:
            out[places] = updates
        else:
            combine.at(out, places, updates)
        return out

    return scatter


def _window(
    starts: Sequence[np.ndarray], sizes: Sequence[int], shape: tuple[int, ...]
) -> tuple[slice, ...]:
    for start, size, length in zip(starts, sizes, shape, strict=True):
        _require_inside(start, size, length)
    return tuple(slice(int(s), int(s) + n) for s, n in zip(starts, sizes, strict=True))


def _dynamic_slice(p: dict[str, Any], operand: np.ndarray, *starts: np.ndarray) -> Any:
    return operand[_window(starts, p["slice_sizes"], operand.shape)]


def _dynamic_update_slice(
    p: dict[str, Any], operand: np.ndarray, update: np.ndarray, *starts: np.ndarray
) -> Any:
    out = np.array(operand)
    out[_window(starts, update.shape, operand.shape)] = update
    return out


INDEXING: dict[str, Callable] = {
    "gather": _gather,
    "scatter": _scatter(None),
    "scatter-add": _scatter(np.add),
    "scatter-mul": _scatter(np.multiply),
    "scatter-min": _scatter(np.minimum),
    "scatter-max": _scatter(np.maximum),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
"""Functions of an equation's parameters and inputs, by the name of its primitive."""
