"""Compiled work of a NumPyro kernel: the start of its chains, and a block of their iterations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer.mcmc import MCMCKernel

from bayes.inference.kernel_states import as_arrays, from_arrays, report
from bayes.inference.pacing import Pace, block_size
from bayes.precision import double_precision

__all__ = ["KernelWork"]

_BLOCK_NUMBERS = 4 * 10**6


@dataclasses.dataclass
class KernelWork:
    """What a kernel does for programs with data of the same shapes.

    A kernel binds its model to data when it is initialised, some kernels for good. Here that
    happens inside of the compiled functions, where the data are arguments: other data of the same
    shapes need no other compilation. What the initialisation gives is not used in a block, and the
    compiler leaves it out.

    Parameters
    ----------
    make : callable
        Makes the kernel afresh.
    arguments : callable
        Keyword arguments of the program from the data's arrays.
    chains, warmup : int
        Number of chains, and iterations in which the kernel adapts.
    numbers : int
        How many numbers an iteration of a chain gives.
    """

    make: Callable[[], MCMCKernel]
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    chains: int
    warmup: int
    numbers: int

    def __post_init__(self) -> None:
        self.ensemble = bool(self.make().is_ensemble_kernel)
        numbers = self.numbers * (self.chains if self.ensemble else 1)
        # What a block keeps must not grow with the model.
        self.size = block_size(numbers, _BLOCK_NUMBERS)
        self.pace = Pace()
        self._compiled: dict[str, Any] = {}

    # ------------------------------------------------------------------- what is compiled

    def _init(self, kernel: MCMCKernel, key_data: Array, arrays: Any) -> Any:
        key = jax.random.wrap_key_data(key_data)
        return kernel.init(
            key, self.warmup, None, model_args=(), model_kwargs=self.arguments(arrays)
        )

    def template(self, arrays: Any) -> Any:
        """Shapes and types of a state; of one chain, or of all where they are an ensemble."""
        if "template" not in self._compiled:
            keys = self._keys(jax.random.key(0))[0]
            with double_precision(), jax.numpy_rank_promotion("allow"):
                self._compiled["template"] = jax.eval_shape(
                    lambda k, a: self._init(self.make(), k, a), keys, arrays
                )
        return self._compiled["template"]

    def _start(self, key_data: Array, arrays: Any) -> list[Array]:
        return as_arrays(self._init(self.make(), key_data, arrays))

    def _block(
        self, leaves: list[Array], count: Array, key_data: Array, arrays: Any
    ) -> tuple[list[Array], dict[str, Any]]:
        kernel, given = self.make(), self.arguments(arrays)
        template = self._init(kernel, key_data, arrays)
        constrain = kernel.postprocess_fn((), given)
        constrain = jax.vmap(constrain) if self.ensemble else constrain

        def seen(state: Any) -> dict[str, Any]:
            stats = report(kernel, state)
            if self.ensemble:
                stats = {k: jnp.broadcast_to(v, (self.chains,)) for k, v in stats.items()}
            return {"values": dict(constrain(getattr(state, kernel.sample_field))), "stats": stats}

        def body(i: Array, loop: tuple) -> tuple:
            leaves, rows = loop
            state = kernel.sample(from_arrays(leaves, template), (), given)
            state = _in_place(kernel, state, self.chains)
            new = [v.astype(w.dtype) for v, w in zip(as_arrays(state), leaves, strict=True)]
            return new, jax.tree.map(lambda b, v: b.at[i].set(v), rows, seen(state))

        shapes = jax.eval_shape(lambda v: seen(from_arrays(v, template)), leaves)
        rows = jax.tree.map(lambda s: jnp.zeros((self.size, *s.shape), s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (leaves, rows))

    def _once(self, name: str, function: Callable, *arguments: Any) -> Any:
        if name not in self._compiled:
            with jax.numpy_rank_promotion("allow"):
                self._compiled[name] = jax.jit(function).lower(*arguments).compile()
        return self._compiled[name]

    # ------------------------------------------------------------------------ what is run

    def _keys(self, key: Array) -> np.ndarray:
        """Data of the chains' keys; with a leading 1 where an ensemble has them all at once."""
        keys = np.asarray(jax.random.key_data(jax.random.split(key, self.chains)))
        return keys[None] if self.ensemble else keys

    def start(self, key: Array, arrays: Any) -> list[np.ndarray]:
        """First states, as arrays with a leading dimension of chains, or of 1 for an ensemble."""
        with double_precision():
            keys = self._keys(key)
            run = self._once("start", self._start, keys[0], arrays)
            found = [jax.tree.map(np.asarray, run(k, arrays)) for k in keys]
        return [np.stack(v) for v in zip(*found, strict=True)]

    def block(
        self, leaves: list[np.ndarray], most: int, arrays: Any
    ) -> tuple[int, list[np.ndarray], dict[str, dict[str, np.ndarray]]]:
        """Run some iterations of every chain, each in a thread of its own.

        The draws do not depend on how iterations are cut into blocks.

        Returns
        -------
        count : int
            Iterations, at most ``most``.
        leaves : list of array
            New states.
        rows : dict
            ``values`` and ``stats`` by name, of shape (chain, count, ...).
        """
        with double_precision():
            count = self.pace.count(min(most, self.size))
            key = self._keys(jax.random.key(0))[0]

            def arguments(chain: int) -> tuple:
                return [v[chain] for v in leaves], np.asarray(count), key, arrays

            compiled = self._once("block", self._block, *arguments(0))

            def run(chain: int) -> Any:
                with double_precision():
                    return jax.tree.map(np.asarray, compiled(*arguments(chain)))

            found = self.pace.run(run, len(leaves[0]), count)
        new, rows = jax.tree.map(lambda *v: np.stack(v), *found)
        if self.ensemble:
            rows = jax.tree.map(lambda v: np.swapaxes(v[0], 0, 1), rows)
        return count, new, jax.tree.map(lambda v: v[:, :count], rows)


def _in_place(kernel: MCMCKernel, state: Any, chains: int) -> Any:
    """A state whose walkers stand where they stood, so that a chain is one walker's path.

    Some ensembles are shuffled before each iteration. A row of the state would then hop from
    walker to walker, and look as if it mixed better than any of them.
    """
    if not getattr(kernel, "_randomize_split", False):
        return state
    place = jnp.argsort(jax.random.permutation(state.rng_key, jnp.arange(chains)))
    return state._replace(z=jax.tree.map(lambda v: v[place], state.z))
