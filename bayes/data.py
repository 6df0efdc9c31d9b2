"""Data: frames, dicts and datasets become checked arrays, coordinates and category levels."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bayes.columns import Column, read_column, rows_text
from bayes.errors import DataError, DataWarning

__all__ = ["Data", "Signature"]


@dataclasses.dataclass(frozen=True)
class Signature:
    """The arguments of a program that data can fill.

    Parameters
    ----------
    program : str
        Name of the program, for messages.
    required, optional : tuple of str
        Arguments without and with a default.
    open : bool
        Whether the program takes ``**kwargs`` and so any name.
    """

    program: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    open: bool

    @classmethod
    def of(cls, fn: Callable) -> Signature:
        """Read the signature of a program."""
        required, optional, is_open = [], [], False
        for name, parameter in inspect.signature(fn).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                is_open = True
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    raise DataError(
                        f"argument '{name}' is positional-only; data are matched to arguments by "
                        "name, so remove the '/' from the signature"
                    )
            elif parameter.default is parameter.empty:
                required.append(name)
            else:
                optional.append(name)
        program = getattr(fn, "__name__", type(fn).__name__)
        return cls(program, tuple(required), tuple(optional), is_open)

    @property
    def names(self) -> tuple[str, ...]:
        """All named arguments."""
        return self.required + self.optional

    def __str__(self) -> str:
        return f"{self.program}({', '.join(self.names)}{', **' if self.open else ''})"


@dataclasses.dataclass(frozen=True)
class Data:
    """Checked data of one fit.

    Parameters
    ----------
    arguments : dict
        What the program is called with: numpy arrays, pytrees of them, and static ints, bools and
        strings.
    columns : dict of Column
        Per array argument: its labels, levels, dims and missing entries.
    coords : dict
        Labels by dimension, as the data bring them.
    notes : tuple of str
        What was converted on the way in.
    """

    arguments: dict[str, Any]
    columns: dict[str, Column]
    coords: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        data: Any,
        signature: Signature | None = None,
        *,
        levels: Mapping[str, np.ndarray] | None = None,
        new_groups: str = "refuse",
    ) -> Data:
        """Check data and match them to a program's arguments by name.

        Parameters
        ----------
        data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
            Arrays, columns, lists or pytrees of arrays by argument name, and Python ints, bools and
            strings, which stay static.
        signature : Signature, optional
            The program's arguments; without it every entry is kept.
        levels : mapping, optional
            Category levels fixed by an earlier fit: codes follow them.
        new_groups : {"refuse", "sample"}
            What to do with a category that is not among ``levels``.

        Returns
        -------
        Data

        Raises
        ------
        DataError
            Names the column and the rows at fault.
        """
        source, is_frame, coords = _entries(data)
        wanted = _match(source, signature, is_frame)
        levels = dict(levels or {})
        arguments: dict[str, Any] = {}
        columns: dict[str, Column] = {}
        notes: list[str] = []
        for name in wanted:
            value = source[name]
            if value is None:
                continue
            column = read_column(name, value, levels.get(name), new_groups)
            arguments[name] = column.value
            if not column.static:
                columns[name] = column
                coords.update({k: v for k, v in column.coords.items() if k not in coords})
            notes.extend(column.notes)
        _fill_level_counts(arguments, columns, signature)
        _check_complete(arguments, source, signature)
        return cls(arguments, columns, coords, tuple(notes))

    @property
    def levels(self) -> dict[str, np.ndarray]:
        """Levels of the categorical columns."""
        return {n: c.levels for n, c in self.columns.items() if c.levels is not None}

    @property
    def arrays(self) -> dict[str, Any]:
        """The array arguments (pytrees of numpy arrays)."""
        return {n: self.arguments[n] for n in self.columns}

    @property
    def statics(self) -> dict[str, int | bool | str | None]:
        """The static arguments."""
        return {n: v for n, v in self.arguments.items() if n not in self.columns}

    def shapes_text(self) -> str:
        """Name and shape of every array argument, for messages."""
        import jax

        parts = []
        for name, value in self.arrays.items():
            shapes = [str(np.shape(leaf)) for leaf in jax.tree.leaves(value)]
            parts.append(f"{name} {', '.join(shapes)}")
        return "; ".join(parts) or "no arrays"

    def missing_text(self, name: str) -> str:
        """Where a column has missing values, for messages."""
        column = self.columns[name]
        rows = rows_text(column.missing, column.labels)
        what = (
            "a missing value"
            if len(column.missing) == 1
            else (f"{len(column.missing)} rows with missing values")
        )
        return (
            f"column '{name}' has {what} (NaN): {rows}; drop these rows, or for an observed column "
            "leave them out in the program with numpyro.handlers.mask (of a KroneckerLinear, mask=)"
        )


def _entries(data: Any) -> tuple[dict[str, Any], bool, dict[str, np.ndarray]]:
    """The entries of any accepted container, whether unused ones are to be expected, and coords."""
    if data is None:
        return {}, False, {}
    pandas, xarray, polars = (sys.modules.get(m) for m in ("pandas", "xarray", "polars"))
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return _frame_entries(data), True, {}
    if polars is not None and isinstance(data, polars.DataFrame):
        return {name: data[name] for name in data.columns}, True, {}
    if polars is not None and isinstance(data, polars.LazyFrame):
        raise DataError("data is a polars.LazyFrame: collect() it first")
    if xarray is not None and isinstance(data, xarray.Dataset):
        labels = {str(d): np.asarray(data[d].values) for d in data.dims if d in data.coords}
        entries = {str(name): data[name] for name in data.variables}
        for dim, values in labels.items():
            _require_unique(values, f"coordinate '{dim}'")
        return entries, True, labels
    if isinstance(data, Mapping):
        bad = [key for key in data if not isinstance(key, str)]
        if bad:
            raise DataError(f"keys of data are argument names, strings; got {bad[0]!r}")
        return dict(data), False, {}
    raise DataError(
        "data must be a dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame, "
        f"got {type(data).__name__}"
    )


def _frame_entries(frame: Any) -> dict[str, Any]:
    names = [str(name) for name in frame.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"duplicate column names in the frame: {', '.join(repeated)}")
    if len(frame) == 0:
        raise DataError("the frame has no rows")
    _require_unique(np.asarray(frame.index), "the frame's index", "; use reset_index(drop=True)")
    return {name: frame.iloc[:, i] for i, name in enumerate(names)}


def _require_unique(labels: np.ndarray, what: str, hint: str = "") -> None:
    seen: set = set()
    repeated = [label for label in labels.tolist() if label in seen or seen.add(label)]
    if repeated:
        shown = ", ".join(repr(label) for label in repeated[:3])
        raise DataError(f"{what} has duplicate labels: {shown}{hint}")


def _match(source: dict[str, Any], signature: Signature | None, is_frame: bool) -> list[str]:
    """The entries that the program takes; entries that it does not take are reported."""
    if signature is None or signature.open:
        return list(source)
    unused = [name for name in source if name not in signature.names]
    if unused and not is_frame:
        hints = []
        for name in unused:
            free = [n for n in signature.names if n not in source]
            folded = {n.casefold(): n for n in free}
            close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
            hint = f" (did you mean '{folded[close[0]]}'?)" if close else ""
            hints.append(f"'{name}'{hint}")
        warnings.warn(
            f"data that {signature} does not take are ignored: {', '.join(hints)}",
            DataWarning,
            stacklevel=2,
        )
    return [name for name in source if name in signature.names]


def _fill_level_counts(
    arguments: dict[str, Any], columns: dict[str, Column], signature: Signature | None
) -> None:
    """An argument ``n_<column>`` that is not given is the number of levels of that column."""
    if signature is None:
        return
    for name in signature.names:
        column = columns.get(name.removeprefix("n_")) if name.startswith("n_") else None
        if name not in arguments and column is not None and column.levels is not None:
            arguments[name] = len(column.levels)


def _check_complete(
    arguments: dict[str, Any], source: dict[str, Any], signature: Signature | None
) -> None:
    if signature is None:
        return
    absent = [n for n in signature.required if n not in arguments and n not in source]
    if absent:
        names = ", ".join(f"'{n}'" for n in absent)
        have = ", ".join(f"'{n}'" for n in source) or "nothing"
        raise DataError(f"{signature} needs {names}; the data have {have}")
    # An argument given as None, or left out where the program has a default, keeps that meaning.
    for name in signature.required:
        if name not in arguments:
            arguments[name] = None
