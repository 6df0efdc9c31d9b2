"""JAX's random bits in NumPy, to the bit: without a compiled function for each way to ask for them.

A key is one ``uint64``, its two words side by side, so that arrays of keys are plain arrays.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

__all__ = [
    "as_key",
    "data",
    "fold_in",
    "key_words",
    "random_bits",
    "seed_key",
    "split",
    "split_key",
    "words",
]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_NAME = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def words(pairs: Any) -> np.ndarray:
    """Key data of shape (..., 2), as keys of shape (...)."""
    wide = np.asarray(pairs).astype(np.uint64)
    return np.asarray(wide[..., 0] << _HALF | wide[..., 1])


def data(keys: np.ndarray) -> np.ndarray:
    """Keys of shape (...), as key data of shape (..., 2)."""
    return np.stack([keys >> _HALF, keys & _LOW], axis=-1).astype(np.uint32)


def _hash(keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Threefry-2x32 with 20 rounds of 64-bit counts under 64-bit keys.

    Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    first, second = (keys >> _HALF).astype(np.uint32), (keys & _LOW).astype(np.uint32)
    schedule = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        a = (counts >> _HALF).astype(np.uint32) + schedule[0]
        b = (counts & _LOW).astype(np.uint32) + schedule[1]
        for round_ in range(5):
            for rotation in _ROTATIONS[round_ % 2]:
                a = a + b
                b = a ^ (b << np.uint32(rotation) | b >> np.uint32(32 - rotation))
            a = a + schedule[(round_ + 1) % 3]
            b = b + schedule[(round_ + 2) % 3] + np.uint32(round_ + 1)
    return np.asarray(a.astype(np.uint64) << _HALF | b.astype(np.uint64))


def split(keys: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """New keys, of shape ``keys.shape + shape``."""
    counts = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    return _hash(keys.reshape(keys.shape + (1,) * len(shape)), counts)


def fold_in(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Keys into which 32-bit numbers are folded."""
    return _hash(keys, numbers.astype(np.uint32).astype(np.uint64))


def random_bits(keys: np.ndarray, width: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random unsigned integers of some bits, of shape ``keys.shape + shape``."""
    bits = split(keys, shape)
    if width < 64:
        bits = (bits >> _HALF) ^ (bits & _LOW)
    return np.asarray(bits).astype(f"uint{width}")


def _is_default() -> bool:
    """Whether JAX's own keys are these: a user may have chosen others."""
    return jax.config.jax_default_prng_impl == _NAME and jax.config.jax_threefry_partitionable


def as_key(keys: np.ndarray) -> jax.Array:
    """Keys of JAX."""
    pairs: Any = data(keys)
    return jax.random.wrap_key_data(pairs, impl=_NAME)


def seed_key(seed: int) -> jax.Array:
    """The key ``jax.random.key(seed)`` in double precision."""
    if not _is_default():
        return jax.random.key(seed)
    return as_key(np.asarray(seed, np.uint64))


def key_words(seed: int) -> np.ndarray:
    """The data of a seed's key, two words."""
    return np.asarray(jax.random.key_data(seed_key(seed)))


def split_key(key: jax.Array, count: int = 2) -> tuple[jax.Array, ...]:
    """The keys of ``jax.random.split(key, count)``, one by one."""
    if not _is_default() or str(jax.random.key_impl(key)) != _NAME:
        return tuple(jax.random.split(key, count))
    return tuple(as_key(np.asarray(k)) for k in split(words(jax.random.key_data(key)), (count,)))
