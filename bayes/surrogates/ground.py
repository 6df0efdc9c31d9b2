"""What every surrogate knows of the program that it was trained for, and what data it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.design import observing, sites_observed
from bayes.errors import DataError, UnsupportedModelError
from bayes.fingerprint import model_difference, model_fingerprint
from bayes.model import Model
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.structure import trace_program
from bayes.surrogates.fitting import fit_mixture
from bayes.surrogates.layout import Inputs, Layout, leaves_of, padded, with_leaves
from bayes.surrogates.linearised import linearised, log_likelihood
from bayes.surrogates.mixtures import Mixture, moved
from bayes.surrogates.simulator import Simulator

__all__ = ["Ground"]


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """The program that a surrogate was trained for, and the coordinates that its network works in.

    Parameters
    ----------
    reference : Problem
        The program bound to data drawn from it, which tell it from others.
    observed : dict of str
        By observed site, the argument that brings its value.
    layout : Layout
        Where a network looks in the data.
    constants : dict of array
        Leaves of the arguments that were the same in all data sets.
    location, scale : array of shape (d,)
        Centre and scale of the flat unconstrained positions under the program's own prior.
    own_prior : Mixture
        The program's own prior, in centred and scaled coordinates.
    """

    reference: Problem
    observed: dict[str, str]
    layout: Layout
    constants: dict[str, np.ndarray]
    location: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    own_prior: Mixture
    _verified: set[Any] = dataclasses.field(default_factory=set, repr=False)

    @classmethod
    def of(cls, simulator: Simulator, key: Array, components: int) -> Ground:
        """That of a simulator: coordinates by the prior's quartiles, and the prior in them.

        Parameters
        ----------
        simulator : Simulator
            Draws of the program's parameters and data.
        key : key
            Random key.
        components : int
            Components that stand for the prior.
        """
        positions = np.asarray(simulator.pilot(key).positions, float)
        lower, location, upper = np.quantile(positions, [0.25, 0.5, 0.75], axis=0)
        scale = (upper - lower) / 1.349
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        own = fit_mixture((positions - location) / scale, components, generator)
        return cls(
            simulator.reference,
            dict(simulator.observed),
            simulator.layout,
            simulator.constants,
            location,
            scale,
            own,
        )

    # --------------------------------------------------------------- coordinates

    def scaled(self, mixture: Mixture) -> Mixture:
        """A mixture on the flat unconstrained space, in the network's coordinates."""
        with double_precision():
            found = moved(mixture, -self.location / self.scale, 1.0 / self.scale)
            return Mixture(*map(np.asarray, found))

    def unscaled(self, mixture: Mixture) -> Mixture:
        """A mixture in the network's coordinates, on the flat unconstrained space."""
        with double_precision():
            wide = Mixture(*(np.asarray(part, float) for part in mixture))
            return Mixture(*map(np.asarray, moved(wide, self.location, self.scale)))

    # ---------------------------------------------------------------------- data

    def inputs(self, problem: Problem) -> Inputs:
        """What the network is given of a problem's data, padded to one of a few sizes."""
        values, leaves = self._values(problem), leaves_of(problem.data.arrays)
        found = self.layout.inputs(values, leaves, np)
        sizes = tuple(
            _padded_size(table.shape[0], source.rows) if source.resizable else source.rows
            for source, table in zip(self.layout.sources, found.tables, strict=True)
        )
        own = self.reference.arrays
        given = {n: problem.data.arrays[n] for n in own if n in problem.data.arrays}
        given |= {self.observed[site]: value for site, value in values.items()}
        return padded(found, sizes)._replace(arrays=self.with_rows(given, sizes))

    def with_rows(self, arrays: dict[str, Any], sizes: tuple[int, ...]) -> dict[str, Any]:
        """Array arguments with so many rows by source, the last repeated, where rows may vary."""
        resizable = [i for i, s in enumerate(self.layout.sources) if s.resizable]
        if not resizable:
            return arrays
        own, size = self._reference_rows, sizes[resizable[0]]
        rows = {n for n, v in leaves_of(self.reference.arrays).items() if np.shape(v)[:1] == own}
        new = {}
        for name, value in leaves_of(arrays).items():
            if name in rows:
                places = np.minimum(np.arange(size), len(value) - 1)
                new[name] = np.asarray(value)[places]
        return with_leaves(arrays, new)

    @property
    def _reference_rows(self) -> tuple[int, ...]:
        """Number of rows of the reference data."""
        source = next(s for s in self.layout.sources if s.resizable)
        return self.reference.sites[source.site].shape[:1]

    def update(self, prior: Mixture, inputs: Inputs) -> Mixture:
        """A prior of one data set, in the network's coordinates, updated by the likelihood's slope.

        It is computed in double precision, within compiled functions; see :func:`linearised`.
        """

        def likelihood(x: Array) -> Array:
            position: Any = self.location + self.scale * x
            program, layout = self.reference.program, self.layout
            counts = jnp.asarray(inputs.counts)
            return log_likelihood(program, layout, position, inputs.arrays, counts)

        return linearised(prior, likelihood)

    def _values(self, problem: Problem) -> dict[str, np.ndarray]:
        values: dict[str, np.ndarray] = {}
        trace: Mapping[str, Any] | None = None
        for site, argument in self.observed.items():
            given = problem.data.arguments.get(argument)
            if given is not None and np.shape(given) == problem.sites[site].shape:
                values[site] = np.asarray(given)
                continue
            if trace is None:
                trace = trace_program(problem.model.fn, problem.data, 0)
            values[site] = np.asarray(trace[site]["value"])
        return values

    def complaints(self, problem: Problem, inputs: Inputs) -> list[str]:
        """How the data are outside of what the network was trained for, in sentences."""
        found = []
        leaves = leaves_of(problem.data.arrays)
        statics = self.reference.program.statics
        for name, value in problem.program.statics.items():
            if name in statics and statics[name] != value:
                found.append(f"'{name}' is {value!r}; in training it was {statics[name]!r}")
        for name, value in self.constants.items():
            given: Any = leaves.get(name)
            same = np.shape(given) == value.shape and np.allclose(
                np.asarray(given, float), np.asarray(value, float), rtol=1e-5, atol=1e-8
            )
            if not same:
                found.append(f"'{name}' is not what it was in training, where it did not vary")
        for i, source in enumerate(self.layout.sources):
            rows = int(inputs.counts[i])
            if rows > source.rows:
                found.append(
                    f"site '{source.site}' has {rows} rows, more than the {source.rows} of training"
                )
            table = inputs.tables[i][:rows]
            for column, levels in zip(table.T, source.columns.levels, strict=True):
                outside = column[(column < 0) | (column >= levels)] if levels else column[:0]
                if len(outside):
                    found.append(
                        f"site '{source.site}' or a covariate of it has the value "
                        f"{outside[0]:g}; in training all were from 0 to {levels - 1}"
                    )
        return found

    # --------------------------------------------------------------------- model

    def verify(self, problem: Problem, *, own_prior: bool) -> None:
        """Refuse a problem of another program.

        Parameters
        ----------
        problem : Problem
            Model and data.
        own_prior : bool
            Whether it has the prior of training, so that its density is to be the same.

        Raises
        ------
        UnsupportedModelError
            How the program differs from that of training.
        DataError
            Missing values, or another number of rows where that is fixed.
        """
        name = problem.model.name
        known, given = self.reference.program.latents, problem.program.latents
        if [(s.name, s.shape) for s in known] != [(s.name, s.shape) for s in given]:
            raise UnsupportedModelError(
                f"{name} has the unknowns {_named(given)}; the surrogate was trained for "
                f"{_named(known)} ({self.reference.model.name}): train one with bayes.amortize"
            )
        for source in self.layout.sources:
            site = problem.sites.get(source.site)
            if site is None or site.kind != "observed":
                raise UnsupportedModelError(
                    f"{name} does not observe '{source.site}', which the surrogate reads"
                )
            old = self.reference.sites[source.site]
            first = 1 if source.resizable else 0
            if site.shape[first:] == old.shape[first:]:
                continue
            if source.resizable:
                raise UnsupportedModelError(
                    f"site '{source.site}' has rows of shape {site.shape[1:]}; the surrogate was "
                    f"trained for {old.shape[1:]}"
                )
            raise UnsupportedModelError(
                f"site '{source.site}' has shape {site.shape}; the surrogate was trained for "
                f"{old.shape}, and that cannot vary in {self.reference.model.name}"
            )
        missing = [n for n, c in problem.data.columns.items() if len(c.missing)]
        if missing:
            raise DataError(
                f"{problem.data.missing_text(missing[0])}; a surrogate cannot leave them out: "
                "method='nuts'"
            )
        if own_prior and problem.model.fn is not self.reference.model.fn:
            self._compare(problem.model)

    def _compare(self, model: Model) -> None:
        """Compare densities at the reference data, once for every program."""
        kept = _has_hash(model.fn)
        if kept and model.fn in self._verified:
            return
        difference = self._difference(model)
        if difference is not None:
            raise UnsupportedModelError(
                f"{model.name} is not the program that the surrogate was trained for: {difference}"
            )
        if kept:
            self._verified.add(model.fn)

    def _difference(self, model: Model) -> str | None:
        bound = model.replace(reparam=self.reference.model.reparam)
        if sites_observed(self.reference.model) is not None:
            bound = observing(bound, tuple(self.observed))
        other = bound.bind(self.reference.data)
        return model_difference(model_fingerprint(self.reference), model_fingerprint(other))


def _padded_size(rows: int, largest: int) -> int:
    """The next power of two, or the size of training where that is smaller."""
    size = 1 << max(0, rows - 1).bit_length()
    return min(size, largest) if rows <= largest else size


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _named(latents: Any) -> str:
    return ", ".join(f"{s.name}{list(s.shape) if s.shape else ''}" for s in latents)
