"""Parameters and data drawn from a program, as a compiled function, for a network to learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers

from bayes.data import Data
from bayes.design import Design, warnings_of_data_ignored
from bayes.errors import UnsupportedModelError
from bayes.model import Model
from bayes.precision import simulating
from bayes.problem import Problem
from bayes.reading import read_program
from bayes.surrogates.laying_out import laid_out, measured
from bayes.surrogates.layout import Inputs, Layout, leaves_of, with_leaves
from bayes.surrogates.probing import Probed, require_amortizable

__all__ = ["Pilot", "Simulator", "Whole"]

_PILOT, _PILOT_NUMBERS = 2048, 2_000_000
_SMOOTHING = 0.1
"""Share of the distance to another row by which a covariate that is drawn is moved towards it."""


class Pilot(NamedTuple):
    """The first simulations, by which scales are set.

    Parameters
    ----------
    positions : array of shape (n, d)
        Flat unconstrained positions.
    inputs : Inputs
        Data, with all rows.
    """

    positions: Float[np.ndarray, "n d"]
    inputs: Inputs


class Whole(NamedTuple):
    """One simulation.

    Parameters
    ----------
    position : array of shape (d,)
        Flat unconstrained position.
    inputs : Inputs
        What a network is given.
    arrays : dict
        Array arguments of the program, observed ones included.
    """

    position: Array
    inputs: Inputs
    arrays: dict[str, Any]


class Simulator:
    """Draws of a program's parameters and data.

    Parameters
    ----------
    model : Model
        The program.
    data : Any
        Its covariates and sizes; observed arguments may be left out.
    design : callable, optional
        From a key to a dict of arguments, in JAX: what differs between data sets. By default
        rows of plated covariates are drawn from the user's own.
    rows : int, optional
        Largest number of rows; by default that of the data.

    Attributes
    ----------
    reference : Problem
        The program bound to data drawn from it.
    observed : dict of str
        By observed site, the argument that brings its value.
    layout : Layout
        Where a network looks.
    rows : int
        Largest number of rows.
    resizable : bool
        Whether data sets may have fewer.
    constants : dict of array
        Leaves of the arguments that are the same in all data sets.

    Raises
    ------
    UnsupportedModelError
        What cannot be amortized, and why.
    SettingsError
        A design that does not fit the program.
    """

    def __init__(
        self, model: Model, data: Any, design: Callable | None = None, rows: int | None = None
    ) -> None:
        self._drawing = Design(model, data, reparam=model.reparam)
        self.observed = self._drawing.observed
        self._program = self._drawing.simulator.program
        with warnings_of_data_ignored():
            self.reference: Problem = self._drawing.bind(self._drawing.draw(0))
        require_amortizable(self.reference)
        # Copies: JAX takes an array that was a constant in single precision for one ever after.
        self._arrays = jax.tree.map(np.array, self._drawing.simulator.arrays)
        self._probed = Probed(self.reference, self._program, self._arrays, self.observed)
        hidden = set(self.reference.observed_arguments) | set(self.observed.values())
        if self._drawing.by_site:
            # The reference observes arguments of its own; these are what the program observes.
            sources = read_program(model.fn, Data.read(data, model.signature)).sources
            observing = {a for names in sources.values() for a in names}
            self._probed.require_free(sorted(observing & set(self._arrays)))
            hidden |= observing
        self._design = design
        self.resizable = self._probed.resizable
        self.rows = self._probed.largest(rows)
        designed = self._probed.leaves_of_design(design, self.rows)
        own = leaves_of(self._arrays)
        self._bootstrapped = tuple(
            n for n, v in own.items() if n not in designed and self._probed.has_rows(v)
        )
        varying = tuple(
            n for n in (*self._bootstrapped, *designed) if n.split(".")[0] not in hidden
        )
        self.constants = {n: np.asarray(v) for n, v in own.items() if n not in varying}
        self.constants = {n: v for n, v in self.constants.items() if n.split(".")[0] not in hidden}
        self._kinds = self._probed.kinds()
        self.layout: Layout = laid_out(self._probed, varying, self.rows)
        first = self.pilot(jax.random.key(1)).inputs
        self.layout = measured(self.layout, self._probed, self._kinds, first)

    # ------------------------------------------------------------------- drawing

    def draw(self, key: Array, rows: int) -> tuple[Array, Inputs]:
        """One draw of position and data, with all rows."""
        whole = self.draw_whole(key, rows)
        return whole.position, whole.inputs

    def draw_whole(self, key: Array, rows: int) -> Whole:
        """One draw of position and data, and the arguments that bind it to the program."""
        first, second = jax.random.split(key)
        arrays = self._arrays_drawn(first, rows)
        values = self._program.simulate(second, arrays)
        observed = {site: values[site] for site in self.observed}
        bound = self._reference_arrays(arrays, observed)
        position = self.reference.program.unconstrain(values, bound)
        inputs = self.layout.inputs(observed, leaves_of(arrays))
        return Whole(position, inputs._replace(arrays=bound), bound)

    def draw_at(self, key: Array, position: Float[Array, " d"], rows: int) -> Inputs:
        """Data drawn given a flat unconstrained position."""
        first, second = jax.random.split(key)
        arrays = self._arrays_drawn(first, rows)
        observed = self._observe(second, position, arrays)
        inputs = self.layout.inputs(observed, leaves_of(arrays))
        return inputs._replace(arrays=self._reference_arrays(arrays, observed))

    def _observe(self, key: Array, position: Array, arrays: Any) -> dict[str, Array]:
        blank = {
            site: jnp.zeros(self._probed.shape_at(site, arrays), self._kinds[site])
            for site in self.observed
        }
        program = self.reference.program
        found = program.constrain(position, self._reference_arrays(arrays, blank))
        latent = {s.name: found[s.name] for s in program.latents}
        fn = handlers.substitute(handlers.seed(self._program.fn, key), data=latent)
        trace = handlers.trace(fn).get_trace(**self._program.arguments(arrays))
        return {site: trace[site]["value"] for site in self.observed}

    def _arrays_drawn(self, key: Array, rows: int) -> Any:
        """The arguments of one data set."""
        first, second = jax.random.split(key)
        own, found = leaves_of(self._arrays), {}
        if self._bootstrapped:
            assert self._probed.rows is not None
            picks = jax.random.randint(first, (2, rows), 0, self._probed.rows)
            near = _SMOOTHING * jax.random.uniform(jax.random.fold_in(first, 1), (rows,))
            for name in self._bootstrapped:
                value = jnp.asarray(own[name])
                chosen = value[picks[0]]
                numbers = _is_number(own[name])
                if numbers.any():
                    # Between two of the user's: where those may lie, this may.
                    share = near.reshape(-1, *(1,) * (value.ndim - 1)) * numbers
                    chosen = chosen + share * (value[picks[1]] - chosen)
                found[name] = chosen
        if self._design is not None:
            for name, value in leaves_of(dict(self._design(second))).items():
                # A design knows of the largest number of rows only.
                found[name] = value[:rows] if self._probed.has_rows(own[name]) else value
        return with_leaves(self._arrays, found)

    def _reference_arrays(self, arrays: Any, observed: Mapping[str, Array]) -> dict[str, Any]:
        return {**arrays, **{self.observed[site]: value for site, value in observed.items()}}

    def pilot(self, key: Array) -> Pilot:
        """The first simulations, with all rows."""
        width = sum(s.rows * max(1, len(s.columns.kinds)) for s in self.layout.sources)
        count = int(np.clip(_PILOT_NUMBERS // max(width, 1), 64, _PILOT))
        return self._pilot(key, count)

    def _pilot(self, key: Array, count: int) -> Pilot:
        with simulating():
            run = jax.jit(jax.vmap(lambda k: self.draw(k, self.rows)))
            position, inputs = jax.tree.map(np.asarray, run(jax.random.split(key, count)))
        parts = [position, *inputs.tables, inputs.extra]
        fine = np.all([np.isfinite(p).reshape(count, -1).all(1) for p in parts], axis=0)
        if fine.mean() < 0.5:
            raise UnsupportedModelError(
                f"{1 - fine.mean():.0%} of the data sets drawn from the prior of "
                f"{self.reference.model.name} have numbers that are not finite in single "
                "precision: narrower priors are needed"
            )
        return Pilot(position[fine], jax.tree.map(lambda v: v[fine], inputs))


def _is_number(value: Any) -> np.ndarray:
    """Which columns of a covariate are numbers, rather than indicators or codes.

    Codes are two values only, or whole numbers without a gap between them.
    """
    value = np.asarray(value)
    columns = value.reshape(len(value), -1).T
    found = [value.dtype.kind == "f" and not _is_code(np.unique(c)) for c in columns]
    return np.reshape(np.asarray(found, bool), value.shape[1:])


def _is_code(levels: np.ndarray) -> bool:
    return len(levels) <= 2 or bool(np.all(levels == levels[0] + np.arange(len(levels))))
