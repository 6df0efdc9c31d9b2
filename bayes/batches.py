"""Work on many draws in batches that fit in a given memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from bayes.program import Program

__all__ = ["map_draws", "require_memory"]

_MOST = 256
"""Draws treated at once at most; more gain no speed and cost memory."""


def require_memory(need: int | float, memory: int | float, what: str) -> None:
    """Refuse work that takes more memory than it may.

    Raises
    ------
    MemoryError
        Says how much it takes, and what to do.
    """
    if need > memory:
        raise MemoryError(
            f"the {what} takes {need / 2**20:.3g} MiB, more than memory={memory / 2**20:.3g} MiB; "
            "raise memory=, or thin the draws"
        )


def map_draws(
    program: Program,
    key: Hashable,
    fn: Callable[[Any, Any], dict[str, Any]],
    draws: Any,
    arrays: Any,
    memory: int | float,
    what: str,
) -> dict[str, np.ndarray]:
    """Run a function at every draw, compiled once for a batch of them.

    Parameters
    ----------
    program : Program
        Keeps the compiled function.
    key : hashable
        Names the function: what it closes over must follow from the program and the key.
    fn : callable
        Function of one draw and the arrays that gives arrays by name.
    draws : pytree
        Draws, with a leading dimension.
    arrays : pytree
        Arrays that all draws share.
    memory : float
        Most bytes that the result and a batch's intermediates may take together.
    what : str
        What is computed, for messages.

    Returns
    -------
    dict
        Arrays of shape (draws, ...).

    Raises
    ------
    MemoryError
        Where the result, or a single draw beside it, takes more than ``memory``.
    """
    count = len(jax.tree.leaves(draws)[0])
    with jax.numpy_rank_promotion("allow"):
        shapes = jax.eval_shape(fn, jax.tree.map(lambda v: v[0], draws), arrays)
    per_draw = sum(int(np.prod(s.shape, dtype=int)) * s.dtype.itemsize for s in shapes.values())
    require_memory(per_draw * count, memory, what)
    room = memory - per_draw * count
    run, size = _largest_batch(program, key, fn, draws, arrays, room, what)
    out = {n: np.empty((count, *s.shape), s.dtype) for n, s in shapes.items()}
    for begin in range(0, count, size):
        # The last batch is filled up with the last draw, so that nothing is compiled for it alone.
        index = np.minimum(np.arange(begin, begin + size), count - 1)
        found = run(jax.tree.map(lambda v, i=index: v[i], draws), arrays)
        for name, target in out.items():
            target[begin : begin + size] = found[name][: count - begin]
    return out


def _largest_batch(
    program: Program,
    key: Hashable,
    fn: Callable,
    draws: Any,
    arrays: Any,
    room: int | float,
    what: str,
) -> tuple[Callable, int]:
    """The function compiled for as many draws as the room holds, by the compiler's own account."""
    count = len(jax.tree.leaves(draws)[0])
    shapes = _shapes(jax.tree.map(lambda v: v[0], draws)) + _shapes(arrays)
    size = min(count, _MOST)
    while True:
        batch = jax.tree.map(lambda v, n=size: v[:n], draws)
        run, need = program.once(
            ("draws", key, shapes, size),
            lambda b=batch: _compile(fn, b, arrays),
        )
        if need <= room:
            return run, size
        if size == 1:
            require_memory(need, room, f"{what}, one draw at a time beside its result,")
        size = max(1, min(size - 1, int(0.9 * size * room / need)))


def _shapes(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return (str(structure), *((np.shape(v), str(np.asarray(v).dtype)) for v in leaves))


def _compile(fn: Callable, batch: Any, arrays: Any) -> tuple[Callable, int | float]:
    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(jax.vmap(fn, in_axes=(0, None))).lower(batch, arrays).compile()
    used = run.memory_analysis()
    if used is None:  # a backend that gives no account
        return run, 0.0
    given = sum(np.asarray(v).nbytes for v in jax.tree.leaves(batch))
    return run, used.temp_size_in_bytes + used.output_size_in_bytes + given
