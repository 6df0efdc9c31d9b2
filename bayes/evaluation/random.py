"""JAX's random primitives in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bayes import threefry

__all__ = ["RANDOM"]

Params = dict[str, Any]


def _require_threefry(p: Params) -> None:
    if p["impl"].name != "threefry2x32":
        raise NotImplementedError(f"keys of {p['impl'].name}")


def _wrap(p: Params, data: np.ndarray) -> Any:
    _require_threefry(p)
    return threefry.words(data)


def _unwrap(p: Params, keys: np.ndarray) -> Any:
    return threefry.data(keys)


def _seed(p: Params, seed: np.ndarray) -> Any:
    _require_threefry(p)
    unsigned = seed.astype(np.dtype(f"u{seed.dtype.itemsize}"))
    return unsigned.astype(np.uint64)


def _split(p: Params, keys: np.ndarray) -> Any:
    return threefry.split(keys, tuple(p["shape"]))


def _fold_in(p: Params, keys: np.ndarray, numbers: np.ndarray) -> Any:
    return threefry.fold_in(keys, numbers)


def _bits(p: Params, keys: np.ndarray) -> Any:
    return threefry.random_bits(keys, p["bit_width"], tuple(p["shape"]))


def _gamma(p: Params, keys: np.ndarray, shape: np.ndarray) -> Any:
    """Gamma variates: of the right distribution, but not those that JAX draws."""
    rng = np.random.default_rng([int(k) for k in keys.ravel()])
    # For a shape near 0 the variate itself underflows, its logarithm does not.
    draw = np.log(rng.standard_gamma(shape + 1)) + np.log1p(-rng.random(shape.shape)) / shape
    return draw if p["log_space"] else np.exp(draw)


def _same(p: Params, keys: np.ndarray) -> Any:
    return keys


RANDOM: dict[str, Callable] = {
    "random_bits": _bits,
    "random_clone": _same,
    "random_fold_in": _fold_in,
    "random_gamma": _gamma,
    "random_seed": _seed,
    "random_split": _split,
    "random_unwrap": _unwrap,
    "random_wrap": _wrap,
}
"""Functions of an equation's parameters and inputs, by the name of its primitive."""
