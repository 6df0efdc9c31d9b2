"""Where in a program's data a network looks: rows of observed sites, their covariates, the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayes.surrogates.features import Columns
from bayes.surrogates.network import Rows

__all__ = ["Inputs", "Layout", "Source", "leaves_of", "padded", "table_of", "with_leaves"]

_ONE_HOT = 32
"""Rows up to which their places are told by indicators."""
_FREQUENCIES = 4


class Inputs(NamedTuple):
    """Data of one data set, or of many with a leading dimension.

    Parameters
    ----------
    tables : tuple of array of shape (..., r, c)
        Columns by source: observed values, then covariates.
    counts : array of shape (..., source)
        Rows that there are, the first ones of the table.
    extra : array of shape (..., e)
        Numbers that come once a data set.
    arrays : dict
        Array arguments that bind the program to the data, in which the likelihood is computed.
    """

    tables: tuple[Float[Array | np.ndarray, "*lead r c"], ...]
    counts: Int[Array | np.ndarray, "*lead source"]
    extra: Float[Array | np.ndarray, "*lead e"]
    arrays: Any = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """An observed site as a table.

    Parameters
    ----------
    site : str
        Name of the observed site.
    covariates : tuple of str
        Leaves of the arguments with a row for each of its rows.
    rows : int
        Largest number of rows.
    resizable : bool
        Whether there may be fewer.
    placed : bool
        Whether it matters which row is which.
    columns : Columns
        How its columns are read.
    """

    site: str
    covariates: tuple[str, ...]
    rows: int
    resizable: bool
    placed: bool
    columns: Columns

    @property
    def size(self) -> int:
        """Features of a row."""
        places = 0
        if self.placed:
            places = self.rows if self.rows <= _ONE_HOT else 1 + 2 * _FREQUENCIES
        return self.columns.size + places

    def read(self, table: Float[Array, "b r c"], count: Int[Array, " b"]) -> Rows:
        """Features of the rows of a batch."""
        features = self.columns.read(table)
        if self.placed:
            places = jnp.broadcast_to(
                self._places(), (*table.shape[:-1], self.size - self.columns.size)
            )
            features = jnp.concatenate([features, places.astype(features.dtype)], axis=-1)
        there = jnp.arange(table.shape[1])[None] < count[:, None]
        return Rows(jnp.where(there[..., None], features, 0.0), there)

    def _places(self) -> np.ndarray:
        if self.rows <= _ONE_HOT:
            return np.eye(self.rows)
        place = np.arange(self.rows) / self.rows
        waves = np.pi * place[:, None] * 2.0 ** np.arange(_FREQUENCIES)
        return np.concatenate([2.0 * place[:, None] - 1.0, np.sin(waves), np.cos(waves)], axis=1)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is read of the data of a program.

    Parameters
    ----------
    sources : tuple of Source
        Observed sites.
    extra : tuple of str
        Leaves of the arguments that differ between data sets and come once in each.
    extra_columns : Columns
        How their numbers are read.
    """

    sources: tuple[Source, ...]
    extra: tuple[str, ...]
    extra_columns: Columns

    def features(self, inputs: Inputs) -> tuple[tuple[Rows, ...], Float[Array, "b e"]]:
        """What a network is given, for a batch."""
        counts = jnp.asarray(inputs.counts)
        rows = tuple(
            source.read(jnp.asarray(table), counts[:, i])
            for i, (source, table) in enumerate(zip(self.sources, inputs.tables, strict=True))
        )
        return rows, self.extra_columns.read(jnp.asarray(inputs.extra))

    def inputs(
        self,
        observed: Mapping[str, Any],
        leaves: Mapping[str, Any],
        xp: Any = jnp,
        lead: tuple[int, ...] = (),
    ) -> Inputs:
        """Tables of one data set, or of many.

        Parameters
        ----------
        observed : mapping of array
            Values by observed site.
        leaves : mapping of array
            Leaves of the arguments by name.
        xp : module
            ``jax.numpy`` or ``numpy``.
        lead : tuple of int
            Leading dimensions of all arrays.
        """
        tables = tuple(table_of(source, observed, leaves, xp, lead) for source in self.sources)
        counts = xp.asarray([table.shape[-2] for table in tables], xp.int32)
        flat = [xp.asarray(leaves[name]).reshape(*lead, -1) for name in self.extra]
        extra = xp.concatenate(flat, axis=-1) if flat else xp.zeros((*lead, 0))
        return Inputs(
            tables, xp.broadcast_to(counts, (*lead, len(tables))), extra.astype(xp.float32)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Back from JSON values."""
        sources = tuple(
            Source(
                str(s["site"]),
                tuple(str(c) for c in s["covariates"]),
                int(s["rows"]),
                bool(s["resizable"]),
                bool(s["placed"]),
                Columns.from_dict(s["columns"]),
            )
            for s in values["sources"]
        )
        extra = tuple(str(e) for e in values["extra"])
        return cls(sources, extra, Columns.from_dict(values["extra_columns"]))


def table_of(
    source: Source,
    observed: Mapping[str, Any],
    leaves: Mapping[str, Any],
    xp: Any,
    lead: tuple[int, ...] = (),
) -> Any:
    """Observed values and covariates of a source, a row each."""
    first = xp.asarray(observed[source.site])
    rows = first.shape[len(lead)] if first.ndim > len(lead) else 1
    parts = [first, *(xp.asarray(leaves[name]) for name in source.covariates)]
    columns = [part.reshape(*lead, rows, -1).astype(xp.float32) for part in parts]
    return xp.concatenate(columns, axis=-1)


def padded(inputs: Inputs, rows: tuple[int, ...]) -> Inputs:
    """Inputs of one data set with tables of these numbers of rows."""
    tables = tuple(
        np.pad(np.asarray(table), ((0, size - table.shape[0]), (0, 0)))
        for table, size in zip(inputs.tables, rows, strict=True)
    )
    return inputs._replace(tables=tables)


def leaves_of(arguments: Any) -> dict[str, Any]:
    """Leaves of array arguments by name, such as ``x`` or ``factors.0``."""
    paths = jax.tree_util.tree_flatten_with_path(arguments)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def with_leaves(arguments: Any, leaves: Mapping[str, Any]) -> Any:
    """Array arguments with some leaves replaced."""
    paths, structure = jax.tree_util.tree_flatten_with_path(arguments)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    new = [leaves.get(name, leaf) for name, (_, leaf) in zip(names, paths, strict=True)]
    return jax.tree.unflatten(structure, new)
