"""JAX's primitives that move or make elements without computing with them, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["SHAPES"]

Params = dict[str, Any]


def _line(values: np.ndarray, dim: int, shape: tuple[int, ...]) -> Any:
    """Values along one dimension, the same along the others."""
    own = [-1 if d == dim else 1 for d in range(len(shape))]
    return np.broadcast_to(values.reshape(own), shape)


def _broadcast(p: Params, x: np.ndarray) -> Any:
    places = dict(zip(p["broadcast_dimensions"], x.shape, strict=True))
    shape = tuple(p["shape"])
    return np.broadcast_to(x.reshape([places.get(d, 1) for d in range(len(shape))]), shape)


def _concatenate(p: Params, *parts: np.ndarray) -> Any:
    return np.concatenate(parts, axis=p["dimension"])


def _empty(p: Params) -> Any:
    return np.zeros(p["shape"], p["dtype"])


def _iota(p: Params) -> Any:
    shape, dim = tuple(p["shape"]), p["dimension"]
    return _line(np.arange(shape[dim]).astype(p["dtype"]), dim, shape)


def _pad(p: Params, x: np.ndarray, value: np.ndarray) -> Any:
    config = p["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise NotImplementedError("padding that cuts")
    shape = [
        low + n + max(0, n - 1) * gap + high
        for n, (low, high, gap) in zip(x.shape, config, strict=True)
    ]
    out = np.full(shape, value, x.dtype)
    inner = zip(x.shape, config, strict=True)
    out[tuple(slice(low, low + n * (gap + 1), gap + 1) for n, (low, _, gap) in inner)] = x
    return out


def _reshape(p: Params, x: np.ndarray) -> Any:
    if p.get("dimensions") is not None:
        raise NotImplementedError("a reshape in another order")
    return x.reshape(p["new_sizes"])


def _reverse(p: Params, x: np.ndarray) -> Any:
    return np.flip(x, p["dimensions"])


def _slice(p: Params, x: np.ndarray) -> Any:
    strides = p["strides"] or (1,) * x.ndim
    bounds = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return x[tuple(slice(*b) for b in bounds)]


def _split(p: Params, x: np.ndarray) -> list[Any]:
    return np.split(x, np.cumsum(p["sizes"])[:-1], axis=p["axis"])


def _squeeze(p: Params, x: np.ndarray) -> Any:
    return np.squeeze(x, tuple(p["dimensions"]))


def _stack(p: Params, *parts: np.ndarray) -> Any:
    return np.stack(parts, axis=p["axis"])


def _tile(p: Params, x: np.ndarray) -> Any:
    return np.tile(x, p["reps"])


def _transpose(p: Params, x: np.ndarray) -> Any:
    return np.transpose(x, p["permutation"])


def _unstack(p: Params, x: np.ndarray) -> list[Any]:
    return list(np.moveaxis(x, p["axis"], 0))


SHAPES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "empty": _empty,
    "iota": _iota,
    "optimization_barrier": lambda p, *values: values,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
}
"""Functions of an equation's parameters and inputs, by the name of its primitive."""
