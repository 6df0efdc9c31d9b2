"""Work side by side: XLA runs without holding Python's lock."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["side_by_side"]


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "bayes-worker")


def side_by_side(work: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    """The results of work on each item, a thread a core; the work itself must not call this."""
    return list(_workers(os.cpu_count() or 1).map(work, items))
