"""Double precision for inference and single for networks, without touching global settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpyro

__all__ = ["double_precision", "simulating", "single_precision"]


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Run a block in float64; the setting is of this thread and ends with the block."""
    with jax.enable_x64(True):
        yield


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """Run a block in float32, whatever broadcasts: networks do, and nothing of a user's.

    An array that a program has captured must not be a constant in both precisions: JAX keeps what
    it made of it first.
    """
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        numpyro.validation_enabled(False),
    ):
        yield


@contextlib.contextmanager
def simulating() -> Iterator[None]:
    """Run a block in float64, whatever broadcasts: simulations of programs do."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        numpyro.validation_enabled(False),
    ):
        yield
