"""A program read at its data: traces at prior draws, what observed values are made of, its indices.

A program is traced once and evaluated with NumPy, where a run as it is written would compile each
of its operations. What cannot be read so (a program that branches in Python on its data, say) runs
as it is written, and that run says what is wrong with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes.bounds import check_indices, named_inputs
from bayes.building import digest_of
from bayes.data import Data
from bayes.dependence import NOTHING, dependence
from bayes.evaluation.interpreter import evaluate
from bayes.running import run_program
from bayes.sources import observed_sources
from bayes.tracing import Traced

__all__ = ["Reading", "read_program", "trace_program"]

Trace = Mapping[str, Any]

_READ = 2
"""Prior draws at which a program is read; checks may ask for more."""


class Reading:
    """A program that runs as it is written.

    Parameters
    ----------
    fn : callable
        The program.
    data : Data
        Its data.
    """

    def __init__(self, fn: Callable, data: Data) -> None:
        self.fn = fn
        self.data = data
        self._traces: dict[int, Trace] = {}

    @functools.cached_property
    def on_device(self) -> Data:
        """The data as arrays of JAX."""
        arrays = jax.tree.map(jnp.asarray, self.data.arrays)
        return Data({**self.data.arguments, **arrays}, self.data.columns, self.data.coords)

    @functools.cached_property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Arguments that each observed value is made of."""
        return observed_sources(self.fn, self.on_device)

    @property
    def identity(self) -> str | None:
        """What tells the values of the sites from those of other programs, where it is known."""
        return None

    @property
    def traces(self) -> list[Trace]:
        """Traces at the first prior draws."""
        return [self.trace(seed) for seed in range(_READ)]

    def trace(self, seed: int) -> Trace:
        """The trace at the prior draw of a seed."""
        if seed not in self._traces:
            self._traces[seed] = self._run(seed)
        return self._traces[seed]

    def check_indices(self) -> str | None:
        """Refuse data that index an array outside of its bounds; a note where that is unknown."""
        return check_indices(self.fn, self.on_device, self.trace(0))

    def _run(self, seed: int) -> Trace:
        return run_program(self.fn, self.on_device, seed)


class _Evaluated(Reading):
    """A program that is traced once and evaluated with NumPy."""

    def __init__(self, fn: Callable, data: Data) -> None:
        super().__init__(fn, data)
        self._traced = Traced(fn, data)
        closed = self._traced.closed
        names, told = named_inputs(data, closed.consts)
        inputs = [NOTHING, *names]
        found = dependence(closed.jaxpr, inputs, told)
        self._plain = found.plain
        used = {id(v) for equation in closed.jaxpr.eqns for v in equation.invars}
        used.update(map(id, closed.jaxpr.outvars))
        data_used = any(id(v) in used for v in closed.jaxpr.invars[1:])
        whole = any(type(v) is int for v in data.statics.values())
        # Evaluation has seen every index of the program, those of the data counting from the
        # front; a program that says what lies beyond an array's end is judged apart.
        free = data_used and not found.indices and not whole
        self._indices_hold = free or (not found.fills and (data_used or not names))
        if any(told):  # a constant that happens to equal the data is not made of them
            found = dependence(closed.jaxpr, inputs, [NOTHING] * len(told))
        self._outputs = found.outputs
        paths = jax.tree.flatten_with_path(data.arrays)[0]
        self._owners = {n: str(p[0].key) for (n,), (p, _) in zip(names, paths, strict=True)}
        self._traces = {seed: self._evaluate(seed) for seed in range(_READ)}

    @functools.cached_property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Arguments that each observed value is made of."""
        return {
            name: tuple(sorted({self._owners[n] for n in self._outputs[place]}))
            if place is not None
            else ()
            for name, place in sorted(self._traced.observed.items())
        }

    @property
    def identity(self) -> str | None:
        """What tells the values of the sites from those of other programs, where it is known."""
        return digest_of(self._traced.closed, self._traced.outline)

    def check_indices(self) -> str | None:
        """Refuse data that index an array outside of its bounds; a note where that is unknown."""
        return None if self._indices_hold else super().check_indices()

    def _evaluate(self, seed: int) -> Trace:
        key_data = np.array([0, seed], np.uint32)
        inputs = [key_data, *jax.tree.leaves(self.data.arrays)]
        return self._traced.at(evaluate(self._plain, self._traced.closed.consts, inputs))

    def _run(self, seed: int) -> Trace:
        try:
            return self._evaluate(seed)
        except Exception:
            return super()._run(seed)


def read_program(fn: Callable, data: Data) -> Reading:
    """Read a program at its data, evaluated with NumPy where that can be done."""
    try:
        return _Evaluated(fn, data)
    except Exception:  # the program as it is written says what is wrong, if anything is
        return Reading(fn, data)


def trace_program(fn: Callable, data: Data, seed: int) -> Trace:
    """Run a program once on its data with latent values drawn from their priors.

    Raises
    ------
    ModelError, ShapeError
        Where the program itself fails, with the reason in the field's terms.
    """
    return read_program(fn, data).trace(seed)
