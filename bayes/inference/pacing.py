"""Blocks of iterations that take about as long as they may, of chains side by side."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from bayes.inference.threads import side_by_side

__all__ = ["Pace", "block_size"]

BLOCK_SECONDS = 0.5
"""What a block is meant to take: Ctrl-C, budgets and checkpoints wait no longer than that."""

_FIRST_BLOCK, _LARGEST_BLOCK = 5, 500


def block_size(numbers: int, most_numbers: int) -> int:
    """Most iterations of a block, where each gives so many numbers: memory is bounded."""
    return max(1, min(_LARGEST_BLOCK, most_numbers // max(numbers, 1)))


@dataclasses.dataclass
class Pace:
    """How long an iteration of all chains takes, from the last block."""

    seconds: float | None = None

    def count(self, most: int) -> int:
        """Iterations of the next block."""
        wanted = _FIRST_BLOCK if self.seconds is None else int(BLOCK_SECONDS / self.seconds)
        return max(1, min(most, wanted))

    def run(self, chain: Callable[[int], Any], chains: int, count: int) -> list[Any]:
        """Run a block of so many iterations of every chain, each chain in a thread."""
        begin = time.perf_counter()
        found = side_by_side(chain, range(chains))
        self.seconds = max((time.perf_counter() - begin) / count, 1e-9)
        return found
