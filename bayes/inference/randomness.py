"""Random numbers of the chains: normal ones from streams on the host, uniform ones from counters.

Momenta are drawn by NumPy before a block runs: nothing of a generator is compiled into it. The
uniform numbers within a trajectory, whose number is not known beforehand, come from a counter by
the finaliser of SplitMix64 (Steele, Lea and Flood 2014, Fast splittable pseudorandom number
generators), a handful of integer operations each. Both depend on chain and iteration alone, not on
how iterations are cut into blocks.
"""

from __future__ import annotations

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt64

__all__ = [
    "Purpose",
    "generator_of",
    "momenta",
    "new_streams",
    "random_bits",
    "trajectory_seeds",
    "uniform",
]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


class Purpose(enum.IntEnum):
    """What a generator is for: no two purposes share random numbers."""

    MOMENTA = 0
    TRAJECTORIES = 1
    STARTS = 2
    DRAWS = 3
    NOISE = 4
    RESAMPLING = 5


def generator_of(key: Array | np.ndarray, purpose: Purpose, *path: int) -> np.random.Generator:
    """A NumPy generator that a JAX key, or its data, a purpose and a path of numbers determine."""
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    words = np.asarray(key, np.uint32).ravel().tolist()
    return np.random.Generator(
        np.random.SFC64(np.random.SeedSequence(words, spawn_key=(purpose, *path)))
    )


def new_streams(key: Array | np.ndarray, chains: int) -> UInt64[np.ndarray, "chain 4"]:
    """The state of one stream a chain."""
    generators = [generator_of(key, Purpose.MOMENTA, chain) for chain in range(chains)]
    states: list[Any] = [generator.bit_generator.state for generator in generators]
    return np.stack([state["state"]["state"] for state in states])


def momenta(
    stream: UInt64[np.ndarray, 4], out: Float[np.ndarray, "iteration d"]
) -> UInt64[np.ndarray, 4]:
    """Fill an array with standard normal numbers; the stream's state afterwards."""
    bits = np.random.SFC64(0)
    bits.state = {
        "bit_generator": "SFC64",
        "state": {"state": stream.copy()},
        "has_uint32": 0,
        "uinteger": 0,
    }
    np.random.Generator(bits).standard_normal(out=out)
    return bits.state["state"]["state"]


def trajectory_seeds(seed: np.uint64, first: int, count: int) -> UInt64[np.ndarray, " iteration"]:
    """The seed of each iteration's trajectory."""
    numbers = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    return _mixed(seed + numbers * _GOLDEN)


def random_bits(seed: Array, counter: Array) -> Array:
    """64 random bits for a seed and a counter."""
    return _mixed(seed + (counter.astype(jnp.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(bits: Array) -> Array:
    """A number in [0, 1) from the upper 53 bits of 64."""
    return (bits >> np.uint64(11)).astype(jnp.int64).astype(jnp.float64) * 2.0**-53


def _mixed(bits: Array | np.ndarray) -> Any:
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> np.uint64(31))
