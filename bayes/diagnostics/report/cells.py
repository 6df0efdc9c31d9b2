"""A table as text: numbers with the digits a reader needs, and the rows to show of many."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from bayes.diagnostics.report.contents import Table

__all__ = ["NOTHING", "Column", "chosen_rows", "columns_of", "number"]

NOTHING = "—"
"""Stands where a cell has no value."""

_LARGEST = 1e7


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table as text.

    Parameters
    ----------
    heading : str
        Its heading.
    numeric : bool
        Whether its cells are numbers.
    cells : list of str
        A cell a row.
    """

    heading: str
    numeric: bool
    cells: list[str]


def columns_of(table: Table) -> list[Column]:
    """The columns of a table as text; numbers of a column have the same decimals where they can."""
    columns = []
    for place, heading in enumerate(table.columns):
        values = [_plain(row[place]) for row in table.rows]
        given = [v for v in values if v is not None]
        numeric = bool(given) and all(isinstance(v, (int, float)) for v in given)
        if numeric:
            decimals = _decimals(given)
            cells = [NOTHING if v is None else number(v, decimals) for v in values]
        else:
            cells = [_text(v) for v in values]
        columns.append(Column(heading, numeric, cells))
    return columns


def chosen_rows(table: Table, most: int) -> list[int]:
    """Which rows of a table to show where only some can be: those flagged, then the first."""
    if len(table.rows) <= most:
        return list(range(len(table.rows)))
    flagged = dict.fromkeys(table.flagged)
    others = (row for row in range(len(table.rows)) if row not in flagged)
    return sorted([*flagged, *others][:most])


def number(value: int | float, decimals: int | None = None) -> str:
    """A number with four digits, or with the decimals of its column.

    Parameters
    ----------
    value : float
        The number.
    decimals : int, optional
        Decimals of its column; a number that has too few digits with them gets more.

    Returns
    -------
    str
        An em dash for NaN.
    """
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, int):
        return str(value)
    places = _decimals([value]) if decimals is None else decimals
    size = abs(value)
    if size >= _LARGEST or (size and size < 5 * 10.0**-places):
        return f"{value:.3g}" if size >= _LARGEST else f"{value:.2g}"
    return f"{value:.{places}f}"


def _decimals(values: Sequence[int | float]) -> int:
    """Decimals that give the typical one of some numbers three or four digits."""
    finite = [abs(v) for v in values if math.isfinite(v)]
    if all(float(v).is_integer() for v in finite):
        return 0
    typical = statistics.median([v for v in finite if v])
    digits = 4 if typical >= 1 else 3
    return min(max(digits - 1 - math.floor(math.log10(typical)), 0), 6)


def _plain(value: Any) -> Any:
    """A cell without NumPy's types; None for NaN."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    return number(value) if isinstance(value, (int, float)) else str(value)
