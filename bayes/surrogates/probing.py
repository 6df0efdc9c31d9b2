"""What a program does with its rows and its data, found by running it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bayes.errors import SettingsError, UnsupportedModelError
from bayes.precision import simulating
from bayes.problem import Problem
from bayes.program import Program
from bayes.surrogates.layout import leaves_of, with_leaves

__all__ = ["Probed", "first_plate", "require_amortizable"]

_MOST_UNKNOWNS = 32
"""Unknowns up to which a full covariance of every component is learned in reasonable time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probed:
    """A program that draws data, and what its runs tell of it.

    Parameters
    ----------
    reference : Problem
        The program that is fitted, bound to data drawn from it.
    program : Program
        The program that draws.
    arrays : dict
        Array arguments of the latter, the user's own.
    observed : dict of str
        By observed site, the argument that brings its value.
    """

    reference: Problem
    program: Program
    arrays: dict[str, Any]
    observed: dict[str, str]

    @functools.cached_property
    def rows(self) -> int | None:
        """Length of the first axis of a plated observed site; None where there is none."""
        for site in self.observed:
            found = self.reference.sites[site]
            if found.plates and found.shape and first_plate(found) is not None:
                return found.shape[0]
        return None

    @functools.cached_property
    def resizable(self) -> bool:
        """Whether the program runs on other numbers of rows, with the same parameters."""
        rows = self.rows
        if rows is None or rows < 2:
            return False
        own = leaves_of(self.arrays)
        more = {n: v for n, v in own.items() if np.ndim(v) and len(v) == rows}
        if not more:
            return False
        pick = np.arange(rows + 1) % rows
        arrays = with_leaves(self.arrays, {n: np.asarray(v)[pick] for n, v in more.items()})
        try:
            with simulating():
                found = jax.eval_shape(
                    lambda a: self.program.simulate(jax.random.key(0), a), arrays
                )
        except Exception:  # whatever it says of shapes that are not its own
            return False
        same = all(found[s.name].shape == s.shape for s in self.reference.program.latents)
        longer = all(
            found[site].shape[:1] == (rows + 1,)
            for site in self.observed
            if self.reference.sites[site].shape[:1] == (rows,)
        )
        return same and longer

    def has_rows(self, leaf: Any) -> bool:
        """Whether a leaf of the user's arguments has an element for each row."""
        return self.rows is not None and np.shape(leaf)[:1] == (self.rows,)

    def largest(self, rows: int | None) -> int:
        """The number of rows that is asked for, or else that of the user's data.

        Raises
        ------
        SettingsError
            Where it is another one and that cannot be.
        """
        own = self.rows or 1
        if rows is None:
            return own
        if rows != own and not self.resizable:
            raise SettingsError(
                f"rows={rows}: {self.reference.model.name} cannot be drawn with another number of "
                f"rows than the {own} of its data; its parameters or its text depend on it"
            )
        return rows

    def kinds(self) -> dict[str, np.dtype]:
        """Types of what is drawn, by observed site."""
        with simulating():
            shapes = jax.eval_shape(
                lambda k: self.program.simulate(k, self.arrays), jax.random.key(0)
            )
        return {site: shapes[site].dtype for site in self.observed}

    def plates_of(self, latent: str) -> tuple[str, ...]:
        """Plates that a latent site lies in."""
        site = self.reference.sites.get(latent)
        if site is None:  # of a reparametrisation: those of the site it stands for
            whole = [s for n, s in self.reference.sites.items() if latent.startswith(f"{n}_")]
            return tuple(name for s in whole for name, _, _ in s.plates)
        return tuple(name for name, _, _ in site.plates)

    def shape_at(self, site: str, arrays: Any) -> tuple[int, ...]:
        """Shape of an observed site where the arguments are these."""
        shape = self.reference.sites[site].shape
        if self.resizable and shape[:1] == (self.rows,):
            own, given = leaves_of(self.arrays), leaves_of(arrays)
            name = next(n for n in given if self.has_rows(own[n]))
            return (np.shape(given[name])[0], *shape[1:])
        return shape

    def leaves_of_design(self, design: Callable | None, rows: int) -> tuple[str, ...]:
        """Leaves of the arguments that a design draws, with this many rows.

        Raises
        ------
        SettingsError
            How it does not fit the program.
        """
        if design is None:
            return ()
        if not callable(design):
            raise SettingsError(f"design is a function of a key, got {type(design).__name__}")
        with simulating():
            found = jax.eval_shape(design, jax.random.key(0))
        if not isinstance(found, Mapping):
            raise SettingsError(
                f"design(key) gives a dict of arguments, got {type(found).__name__}"
            )
        unknown = [n for n in found if n not in self.arrays]
        if unknown:
            raise SettingsError(
                f"design gives '{unknown[0]}', which is not an array argument of "
                f"{self.reference.model.name} ({', '.join(self.arrays)})"
            )
        own = leaves_of(self.arrays)
        for name, value in leaves_of(dict(found)).items():
            known: Any = own.get(name)
            wanted = np.shape(known)
            if name in own and self.has_rows(known):
                wanted = (rows, *wanted[1:])
            if name not in own or value.shape != wanted:
                raise SettingsError(
                    f"design gives '{name}' of shape {value.shape}; the data have shape {wanted}"
                )
        return tuple(leaves_of(dict(found)))

    def require_free(self, names: list[str]) -> None:
        """Refuse a program that computes with what it observes, but for its size.

        Parameters
        ----------
        names : list of str
            Arguments that it observes.

        Raises
        ------
        UnsupportedModelError
            Which of its sites depends on them.
        """
        other = {n: jax.tree.map(lambda v: np.roll(v, 1, axis=0), self.arrays[n]) for n in names}
        with simulating():
            run = jax.jit(lambda a: self.program.simulate(jax.random.key(0), a))
            here, there = run(self.arrays), run({**self.arrays, **other})
        for site, value in here.items():
            if not np.array_equal(np.asarray(value), np.asarray(there[site]), equal_nan=True):
                raise UnsupportedModelError(
                    f"site '{site}' of {self.reference.model.name} is computed from what is "
                    f"observed ({', '.join(names)}): new data cannot be drawn for it; give that "
                    "part as an argument of its own"
                )


def first_plate(site: Any) -> str | None:
    """The plate that the first axis of a site lies in."""
    batch = len(site.shape) - site.event_ndim
    return next((name for name, dim, _ in site.plates if batch + dim == 0), None)


def require_amortizable(problem: Problem) -> None:
    """Refuse a program with discrete unknowns, or with too many.

    Raises
    ------
    UnsupportedModelError
        Which they are.
    """
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
