"""Parameters and data drawn from a program, as a compiled function, for a network to learn from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro import handlers

from bayes.data import Data
from bayes.design import Design, warnings_of_data_ignored
from bayes.errors import SettingsError, UnsupportedModelError
from bayes.model import Model
from bayes.problem import Problem
from bayes.reading import read_program
from bayes.surrogates.features import Columns, measure_columns
from bayes.surrogates.layout import Inputs, Layout, Source, leaves_of, table_of, with_leaves

__all__ = ["Pilot", "Simulator", "Whole", "single_precision"]

_MOST_UNKNOWNS = 32
"""Unknowns up to which a full covariance of every component is learned in reasonable time."""
_MOST_EXTRA = 256
_PILOT, _PILOT_NUMBERS = 2048, 2_000_000
_SMOOTHING = 0.1
"""Share of the distance to another row by which a covariate that is drawn is moved towards it."""


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """Networks and their simulations run in float32, whatever broadcasts."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        numpyro.validation_enabled(False),
    ):
        yield


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
        _require_amortizable(self.reference)
        # Copies: JAX takes an array that was a constant in single precision for one ever after.
        self._arrays = jax.tree.map(np.array, self._drawing.simulator.arrays)
        hidden = set(self.reference.observed_arguments) | set(self.observed.values())
        if self._drawing.by_site:
            # The reference observes arguments of its own; these are what the program observes.
            sources = read_program(model.fn, Data.read(data, model.signature)).sources
            observing = {a for names in sources.values() for a in names}
            self._require_free(sorted(observing & set(self._arrays)))
            hidden |= observing
        self._design = design
        self._rows = self._row_axis()
        self.resizable = self._is_resizable()
        self.rows = self._largest(rows)
        self._designed = self._leaves_of_design()
        own = leaves_of(self._arrays)
        self._bootstrapped = tuple(
            n
            for n, v in own.items()
            if self._rows is not None
            and n not in self._designed
            and np.ndim(v)
            and len(v) == self._rows
        )
        varying = tuple(
            n for n in (*self._bootstrapped, *self._designed) if n.split(".")[0] not in hidden
        )
        self.constants = {n: np.asarray(v) for n, v in own.items() if n not in varying}
        self.constants = {n: v for n, v in self.constants.items() if n.split(".")[0] not in hidden}
        self.layout = self._lay_out(varying)

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
            site: jnp.zeros(self._shape_at(site, arrays), self._kind[site])
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
            picks = jax.random.randint(first, (2, rows), 0, self._rows)
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
                found[name] = value[:rows] if self._has_rows(own[name]) else value
        return with_leaves(self._arrays, found)

    def _reference_arrays(self, arrays: Any, observed: Mapping[str, Array]) -> dict[str, Any]:
        return {**arrays, **{self.observed[site]: value for site, value in observed.items()}}

    def pilot(self, key: Array) -> Pilot:
        """The first simulations, with all rows."""
        width = sum(s.rows * max(1, len(s.columns.kinds)) for s in self.layout.sources)
        count = int(np.clip(_PILOT_NUMBERS // max(width, 1), 64, _PILOT))
        return self._pilot(key, count)

    def _pilot(self, key: Array, count: int) -> Pilot:
        with single_precision():
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

    # ----------------------------------------------------------------- structure

    def _row_axis(self) -> int | None:
        """Length of the first axis of a plated observed site; None where there is none."""
        for site in self.observed:
            found = self.reference.sites[site]
            if found.plates and found.shape and _first_plate(found) is not None:
                return found.shape[0]
        return None

    def _is_resizable(self) -> bool:
        """Whether the program runs on other numbers of rows, with the same parameters."""
        if self._rows is None or self._rows < 2:
            return False
        own = leaves_of(self._arrays)
        more = {n: v for n, v in own.items() if np.ndim(v) and len(v) == self._rows}
        if not more:
            return False
        pick = np.arange(self._rows + 1) % self._rows
        arrays = with_leaves(self._arrays, {n: np.asarray(v)[pick] for n, v in more.items()})
        try:
            with single_precision():
                found = jax.eval_shape(
                    lambda a: self._program.simulate(jax.random.key(0), a), arrays
                )
        except Exception:  # whatever it says of shapes that are not its own
            return False
        same = all(found[s.name].shape == s.shape for s in self.reference.program.latents)
        longer = all(
            found[site].shape[:1] == (self._rows + 1,)
            for site in self.observed
            if self.reference.sites[site].shape[:1] == (self._rows,)
        )
        return same and longer

    def _largest(self, rows: int | None) -> int:
        own = self._rows or 1
        if rows is None:
            return own
        if rows != own and not self.resizable:
            raise SettingsError(
                f"rows={rows}: {self.reference.model.name} cannot be drawn with another number of "
                f"rows than the {own} of its data; its parameters or its text depend on it"
            )
        return rows

    def _leaves_of_design(self) -> tuple[str, ...]:
        if self._design is None:
            return ()
        if not callable(self._design):
            raise SettingsError(f"design is a function of a key, got {type(self._design).__name__}")
        with single_precision():
            found = jax.eval_shape(self._design, jax.random.key(0))
        if not isinstance(found, Mapping):
            raise SettingsError(
                f"design(key) gives a dict of arguments, got {type(found).__name__}"
            )
        unknown = [n for n in found if n not in self._arrays]
        if unknown:
            raise SettingsError(
                f"design gives '{unknown[0]}', which is not an array argument of "
                f"{self.reference.model.name} ({', '.join(self._arrays)})"
            )
        own = leaves_of(self._arrays)
        for name, value in leaves_of(dict(found)).items():
            wanted = np.shape(own.get(name))
            if name in own and self._has_rows(own[name]):
                wanted = (self.rows, *wanted[1:])
            if name not in own or value.shape != wanted:
                raise SettingsError(
                    f"design gives '{name}' of shape {value.shape}; the data have shape {wanted}"
                )
        return tuple(leaves_of(dict(found)))

    def _require_free(self, names: list[str]) -> None:
        """Refuse a program that computes with what it observes, but for its size."""
        other = {n: jax.tree.map(lambda v: np.roll(v, 1, axis=0), self._arrays[n]) for n in names}
        with single_precision():
            run = jax.jit(lambda a: self._program.simulate(jax.random.key(0), a))
            here, there = run(self._arrays), run({**self._arrays, **other})
        for site, value in here.items():
            if not np.array_equal(np.asarray(value), np.asarray(there[site]), equal_nan=True):
                raise UnsupportedModelError(
                    f"site '{site}' of {self.reference.model.name} is computed from what is "
                    f"observed ({', '.join(names)}): new data cannot be drawn for it; give that "
                    "part as an argument of its own"
                )

    def _lay_out(self, varying: tuple[str, ...]) -> Layout:
        own = leaves_of(self._arrays)
        with single_precision():
            shapes = jax.eval_shape(
                lambda k: self._program.simulate(k, self._arrays), jax.random.key(0)
            )
        self._kind = {site: shapes[site].dtype for site in self.observed}
        placed_plates = {p for s in self.reference.program.latents for p in self._plates_of(s.name)}
        sources, used = [], set()
        for site in self.observed:
            found = self.reference.sites[site]
            rows = found.shape[0] if found.shape else 1
            plate = _first_plate(found)
            resizable = self.resizable and rows == self._rows and plate is not None
            covariates = tuple(
                n for n in varying if np.ndim(own[n]) and len(own[n]) == rows and found.shape
            )
            used |= set(covariates)
            placed = rows > 1 and (plate is None or plate in placed_plates)
            size = self.rows if resizable else rows
            blank = Columns((), (), (), ())
            sources.append(Source(site, covariates, size, resizable, placed, blank))
        extra = tuple(n for n in varying if n not in used)
        numbers = sum(int(np.size(own[n])) for n in extra)
        if numbers > _MOST_EXTRA:
            raise UnsupportedModelError(
                f"{', '.join(extra)} differ between data sets and have {numbers} numbers that "
                f"belong to no row; at most {_MOST_EXTRA} can be read"
            )
        self.layout = Layout(tuple(sources), extra, Columns((), (), (), ()))
        return self._measured(own)

    def _measured(self, own: Mapping[str, Any]) -> Layout:
        """The layout with columns as the first simulations have them."""
        inputs = self.pilot(jax.random.key(1)).inputs
        sources = []
        for source, table in zip(self.layout.sources, inputs.tables, strict=True):
            blank = {n: np.zeros((1, *np.shape(own[n])[1:])) for n in source.covariates}
            shape = self.reference.sites[source.site].shape
            widths = [
                table_of(_only(source, ()), {source.site: np.zeros((1, *shape[1:]))}, {}, np).shape[
                    1
                ]
            ]
            widths += [int(np.size(v)) for v in blank.values()]
            kinds = [self._kind[source.site], *(np.asarray(own[n]).dtype for n in blank)]
            whole = [np.dtype(k).kind in "iub" for k in kinds]
            flags = tuple(w for w, n in zip(whole, widths, strict=True) for _ in range(n))
            columns = measure_columns(table.reshape(-1, table.shape[-1]), flags)
            sources.append(
                Source(
                    source.site,
                    source.covariates,
                    source.rows,
                    source.resizable,
                    source.placed,
                    columns,
                )
            )
        flags = tuple(
            np.asarray(own[n]).dtype.kind in "iub"
            for n in self.layout.extra
            for _ in range(int(np.size(own[n])))
        )
        return Layout(tuple(sources), self.layout.extra, measure_columns(inputs.extra, flags))

    def _has_rows(self, leaf: Any) -> bool:
        """Whether a leaf of the user's arguments has an element for each row."""
        return self._rows is not None and np.shape(leaf)[:1] == (self._rows,)

    def _plates_of(self, latent: str) -> tuple[str, ...]:
        site = self.reference.sites.get(latent)
        if site is None:  # of a reparametrisation: those of the site it stands for
            whole = [s for n, s in self.reference.sites.items() if latent.startswith(f"{n}_")]
            return tuple(name for s in whole for name, _, _ in s.plates)
        return tuple(name for name, _, _ in site.plates)

    def _shape_at(self, site: str, arrays: Any) -> tuple[int, ...]:
        shape = self.reference.sites[site].shape
        if self.resizable and shape[:1] == (self._rows,):
            own, given = leaves_of(self._arrays), leaves_of(arrays)
            name = next(n for n in given if self._has_rows(own[n]))
            return (np.shape(given[name])[0], *shape[1:])
        return shape


def _only(source: Source, covariates: tuple[str, ...]) -> Source:
    return Source(
        source.site, covariates, source.rows, source.resizable, source.placed, source.columns
    )


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


def _first_plate(site: Any) -> str | None:
    """The plate that the first axis of a site lies in."""
    batch = len(site.shape) - site.event_ndim
    return next((name for name, dim, _ in site.plates if batch + dim == 0), None)


def _require_amortizable(problem: Problem) -> None:
    name, d = problem.model.name, problem.size
    if problem.discrete or problem.drawn_discrete:
        sites = ", ".join(problem.discrete + problem.drawn_discrete)
        raise UnsupportedModelError(
            f"{name} has discrete latent sites ({sites}), which a density on continuous unknowns "
            "does not have: sum them out in the program, or use method='nuts'"
        )
    if d > _MOST_UNKNOWNS:
        rows = {p[2] for s in problem.sites.values() if s.kind == "observed" for p in s.plates}
        local = [
            s.name
            for s in problem.sites.values()
            if s.kind == "latent" and any(p[2] in rows for p in s.plates)
        ]
        why = f"; {', '.join(local)} has an element for each row of the data" if local else ""
        raise UnsupportedModelError(
            f"{name} has {d} unknowns, at most {_MOST_UNKNOWNS} can be amortized{why}: "
            "method='nuts' or method='vi' takes any number"
        )
