"""One column of data: from what users hold to a checked numpy array."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.errors import DataError

__all__ = ["Column", "read_column", "rows_text"]


@dataclasses.dataclass(frozen=True)
class Column:
    """A checked column.

    Parameters
    ----------
    name : str
        Argument name.
    value : array, pytree of arrays, int, bool, str or None
        What the program gets.
    static : bool
        Whether the value is a Python constant of the program (int, bool, str).
    labels : array of shape (rows,), optional
        Row labels of the frame or dataset that it came from.
    levels : array of shape (levels,), optional
        Category levels; the value then holds their integer codes.
    dims : tuple of str, optional
        Dimension names that the data bring.
    coords : dict
        Labels by dimension name.
    missing : array of int
        Rows with NaN.
    notes : tuple of str
        What was converted.
    """

    name: str
    value: Any
    static: bool = False
    labels: np.ndarray | None = None
    levels: np.ndarray | None = None
    dims: tuple[str, ...] | None = None
    coords: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    missing: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    notes: tuple[str, ...] = ()


def rows_text(rows: np.ndarray, labels: np.ndarray | None = None, most: int = 5) -> str:
    """Name rows, at most a few of them, by their labels where they have some."""
    rows = np.asarray(rows)
    shown = (
        [repr(labels[r].item() if hasattr(labels[r], "item") else labels[r]) for r in rows[:most]]
        if labels is not None
        else [str(int(r)) for r in rows[:most]]
    )
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(shown)}{more}"


def read_column(
    name: str, value: Any, levels: np.ndarray | None = None, new_groups: str = "refuse"
) -> Column:
    """Check one entry of the data and turn it into what the program gets.

    Parameters
    ----------
    name : str
        Argument name, for messages.
    value : object
        Array, column, list, pytree of arrays, or a Python int, bool or str.
    levels : array, optional
        Levels fixed by an earlier fit.
    new_groups : {"refuse", "sample"}
        What to do with a category not among ``levels``.

    Returns
    -------
    Column
    """
    if isinstance(value, (bool, int, str, np.bool_, np.integer)):
        return Column(name, value if isinstance(value, str) else _plain(value), static=True)
    if isinstance(value, Mapping):
        parts = {str(k): read_column(f"{name}.{k}", v) for k, v in value.items()}
        return _pytree(name, {k: _array_part(c) for k, c in parts.items()})
    if isinstance(value, tuple) or (isinstance(value, list) and _holds_arrays(value)):
        parts = [_array_part(read_column(f"{name}[{i}]", v)) for i, v in enumerate(value)]
        if isinstance(value, tuple) and all(np.ndim(p) == 0 for p in parts):
            return _numeric(name, np.asarray(value), None)
        return _pytree(name, tuple(parts) if isinstance(value, tuple) else parts)
    return _read_container(name, value, levels, new_groups)


def _read_container(name: str, value: Any, levels: np.ndarray | None, new_groups: str) -> Column:
    """A column of pandas, polars or xarray, or what NumPy makes an array of."""
    pandas, xarray, polars = (sys.modules.get(m) for m in ("pandas", "xarray", "polars"))
    if pandas is not None:
        if isinstance(value, pandas.Series):
            return _series(name, value, levels, new_groups)
        if isinstance(value, pandas.Categorical):
            return _categorical(name, value.codes, value.categories, None, levels, new_groups)
        if isinstance(value, pandas.DataFrame):
            return _numeric(name, value.to_numpy(), np.asarray(value.index))
        if isinstance(value, pandas.Index):
            return _numeric(name, value.to_numpy(), None)
    if polars is not None and isinstance(value, polars.Series):
        return _polars(name, value, levels, new_groups)
    if xarray is not None and isinstance(value, xarray.DataArray):
        column = _numeric(name, value.values, None)
        coords = {str(d): np.asarray(value[d].values) for d in value.dims if d in value.coords}
        dims = tuple(str(d) for d in value.dims)
        return dataclasses.replace(column, dims=dims, coords=coords)
    return _numeric(name, value, None)


def _plain(value: Any) -> int | bool:
    return value.item() if isinstance(value, np.generic) else value


def _holds_arrays(value: Sequence) -> bool:
    return any((hasattr(v, "shape") and np.ndim(v) > 0) or isinstance(v, Mapping) for v in value)


def _array_part(column: Column) -> Any:
    if column.static:
        if isinstance(column.value, str):
            raise DataError(f"'{column.name}' is a string; a pytree of data holds arrays only")
        return np.asarray(column.value)
    if len(column.missing):
        raise DataError(f"'{column.name}' has NaN: {rows_text(column.missing)}")
    return column.value


def _pytree(name: str, value: Any) -> Column:
    if len(value) == 0:
        raise DataError(f"'{name}' is empty")
    return Column(name, value)


def _series(name: str, series: Any, levels: np.ndarray | None, new_groups: str) -> Column:
    import pandas as pd

    labels = None if isinstance(series.index, pd.RangeIndex) else np.asarray(series.index)
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, categories = series.cat.codes.to_numpy(), series.cat.categories
        return _categorical(name, codes, categories, labels, levels, new_groups)
    if levels is not None:
        # The frame of an earlier fit had this column as a category: plain labels follow it.
        series = series.astype("category")
        codes, categories = series.cat.codes.to_numpy(), series.cat.categories
        return _categorical(name, codes, categories, labels, levels, new_groups)
    if isinstance(series.dtype, pd.StringDtype):
        raise _string_error(name)
    missing = np.flatnonzero(series.isna().to_numpy())
    if len(missing) and not pd.api.types.is_float_dtype(series.dtype):
        raise DataError(f"column '{name}' has missing values: {rows_text(missing, labels)}")
    if pd.api.types.is_extension_array_dtype(series.dtype):
        if pd.api.types.is_float_dtype(series.dtype):
            return _numeric(name, series.to_numpy(float, na_value=np.nan), labels)
        if pd.api.types.is_integer_dtype(series.dtype):
            return _numeric(name, series.to_numpy(np.int64), labels)
        if pd.api.types.is_bool_dtype(series.dtype):
            return _numeric(name, series.to_numpy(bool), labels)
    return _numeric(name, series.to_numpy(), labels)


def _polars(name: str, series: Any, levels: np.ndarray | None, new_groups: str) -> Column:
    import polars as pl

    missing = np.flatnonzero(series.is_null().to_numpy())
    if len(missing):
        raise DataError(f"column '{name}' has missing values (null): {rows_text(missing)}")
    is_category = isinstance(series.dtype, (pl.Categorical, pl.Enum))
    if is_category or levels is not None:
        values = np.asarray(series.cast(pl.String).to_list()) if is_category else series.to_numpy()
        if isinstance(series.dtype, pl.Enum):
            categories = np.asarray(series.dtype.categories.to_list())
        else:
            categories = np.unique(values)
        lookup = {category: code for code, category in enumerate(categories.tolist())}
        codes = np.asarray([lookup[v] for v in values.tolist()])
        return _categorical(name, codes, categories, None, levels, new_groups)
    if series.dtype == pl.String:
        raise _string_error(name)
    return _numeric(name, series.to_numpy(), None)


def _categorical(
    name: str,
    codes: np.ndarray,
    categories: Any,
    labels: np.ndarray | None,
    levels: np.ndarray | None,
    new_groups: str,
) -> Column:
    codes = np.asarray(codes, dtype=np.int64)
    if codes.size == 0:
        raise DataError(f"column '{name}' is empty")
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise DataError(
            f"category column '{name}' has missing values: {rows_text(missing, labels)}; "
            "drop these rows or give them a level of their own"
        )
    categories = np.asarray(categories)
    if categories.dtype == object:  # text, or what is known by its text, such as intervals
        categories = categories.astype(str)
    notes: tuple[str, ...] = ()
    if levels is None:
        used = np.unique(codes)
        if len(used) < len(categories):
            empty = [str(c) for i, c in enumerate(categories.tolist()) if i not in set(used)]
            notes = (f"levels of '{name}' without rows: {', '.join(empty[:5])}",)
        return Column(name, codes, labels=labels, levels=categories, notes=notes)
    known = {level: code for code, level in enumerate(levels.tolist())}
    used_labels = [categories[c] for c in np.unique(codes)]
    unseen = [label for label in map(_item, used_labels) if label not in known]
    if unseen and new_groups != "sample":
        rows = np.flatnonzero(np.isin(categories[codes], np.asarray(unseen, categories.dtype)))
        shown = ", ".join(repr(label) for label in unseen[:5])
        raise DataError(
            f"column '{name}' has levels that the fit has not seen: {shown} "
            f"({rows_text(rows, labels)}); new_groups='sample' draws them from their prior"
        )
    all_levels = np.asarray([*levels.tolist(), *unseen])
    known.update({label: len(levels) + i for i, label in enumerate(unseen)})
    recode = np.asarray([known.get(_item(label), -1) for label in categories])
    return Column(name, recode[codes], labels=labels, levels=all_levels, notes=notes)


def _item(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _string_error(name: str) -> DataError:
    return DataError(
        f"column '{name}' holds strings; a grouping column is made a category first: "
        f"frame['{name}'].astype('category')"
    )


def _numeric(name: str, value: Any, labels: np.ndarray | None) -> Column:
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            rows = np.unique(np.nonzero(np.ma.getmaskarray(value))[0])
            raise DataError(f"column '{name}' has masked values: {rows_text(rows, labels)}")
        value = value.data
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"'{name}' is not an array: {error}") from error
    _check_dtype(name, array, labels)
    if array.size == 0:
        raise DataError(f"'{name}' is empty (shape {array.shape})")
    notes: tuple[str, ...] = ()
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    elif np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.int64)
    if np.issubdtype(array.dtype, np.inexact):
        bad = ~np.isfinite(array) & ~np.isnan(array)
        if bad.any():
            rows = np.unique(np.nonzero(np.atleast_1d(bad))[0])
            raise DataError(f"column '{name}' has infinite values: {rows_text(rows, labels)}")
        missing = np.unique(np.nonzero(np.atleast_1d(np.isnan(array)))[0])
    else:
        missing = np.zeros(0, int)
    return Column(name, array, labels=labels, missing=missing, notes=notes)


def _check_dtype(name: str, array: np.ndarray, labels: np.ndarray | None) -> None:
    kind = array.dtype.kind
    if kind in "biufc":
        return
    if kind in "US":
        raise _string_error(name)
    if kind in "mM":
        raise DataError(
            f"column '{name}' holds dates or times ({array.dtype}); convert it to numbers first"
        )
    if kind == "O":
        flat = array.ravel()
        odd = [i for i, v in enumerate(flat) if not isinstance(v, (int, float, np.number))]
        if not odd:
            raise DataError(f"'{name}' has object dtype; convert it to numbers: .astype(float)")
        kinds = sorted({type(flat[i]).__name__ for i in odd})
        rows = np.asarray(odd[:50])
        where = f" ({rows_text(rows, labels)})" if array.ndim == 1 else ""
        what = "missing values" if kinds == ["NoneType"] else f"values of type {', '.join(kinds)}"
        raise DataError(f"'{name}' has object dtype with {what}{where}; it must be numbers")
    raise DataError(f"'{name}' is a {type(array).__name__} of dtype {array.dtype}, not numbers")
