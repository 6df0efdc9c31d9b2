"""Plates that take subsamples: whole for a posterior, as written for a kernel that works so."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from numpyro.primitives import Messenger

__all__ = ["Whole", "subsampled", "subsampled_plates"]

_AS_WRITTEN: contextvars.ContextVar[bool] = contextvars.ContextVar("as_written", default=False)


class Whole(Messenger):
    """A program whose plates take all their elements, whatever subsample it asks for.

    It stands for the posterior of all data, which an algorithm on subsamples aims at: its log
    density, its observed values and its predictions have no subsample in them.

    Parameters
    ----------
    fn : callable
        The program.

    Attributes
    ----------
    plates : dict of (int, int)
        Size and subsample size of every subsampled plate met so far.
    """

    def __init__(self, fn: Callable) -> None:
        super().__init__(fn)
        self.plates: dict[str, tuple[int, int]] = {}

    def process_message(self, msg: Any) -> None:
        """Give a plate all its elements."""
        if msg["type"] != "plate" or _AS_WRITTEN.get():
            return
        size, part = msg["args"]
        if part is None or part == size:
            return
        if part < size:  # new data may have fewer rows than a subsample
            self.plates[msg["name"]] = (size, part)
        msg["args"], msg["value"] = (size, size), jnp.arange(size)

    # The same program is the same, so that what is compiled for it is found again.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Whole) and other.fn == self.fn

    def __hash__(self) -> int:
        return hash((Whole, self.fn))


def subsampled_plates(fn: Callable) -> dict[str, tuple[int, int]]:
    """Size and subsample size of the plates of a program that take a subsample as written."""
    return dict(fn.plates) if isinstance(fn, Whole) else {}


def subsampled(fn: Callable) -> Callable:
    """A program that takes subsamples as it was written to, though a part of it is ``Whole``."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _as_written():
            return fn(*args, **kwargs)

    return run


@contextlib.contextmanager
def _as_written() -> Iterator[None]:
    token = _AS_WRITTEN.set(True)
    try:
        yield
    finally:
        _AS_WRITTEN.reset(token)
