"""Double precision for inference, without touching JAX's global settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["double_precision"]


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Run a block in float64; the setting is of this thread and ends with the block."""
    with jax.enable_x64(True):
        yield
