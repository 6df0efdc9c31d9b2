"""Work on many draws in batches that fit in a given memory."""

from __future__ import annotations

__all__ = ["batch_size", "require_memory"]

_COPIES = 4
"""Arrays of a batch's result that live at once: the result, its copy, and intermediates."""


def require_memory(need: float, memory: float, what: str) -> None:
    """Refuse a result that is larger than the memory it may take.

    Raises
    ------
    MemoryError
        Says how large the result is, and what to do.
    """
    if need > memory:
        raise MemoryError(
            f"the {what} takes {need / 2**20:.0f} MiB, more than memory={memory / 2**20:.0f} MiB; "
            "raise memory=, or thin the draws"
        )


def batch_size(bytes_a_draw: int, memory: float, draws: int) -> int:
    """Draws to treat at once so that intermediates stay within the memory left."""
    fitting = int(memory // (_COPIES * max(bytes_a_draw, 1)))
    return max(1, min(draws, fitting))
