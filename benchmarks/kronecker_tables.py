"""Tables of what benchmarks/kronecker_sbl.py measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from layout import number, table

FEW = 150
"""Sweeps, where one is timed: the most that the paper takes."""
DENSE = f"dense-am-{FEW}"
"""The engine that seconds are compared with."""

Rows = list[dict[str, Any]]


def _values(rows: Rows, name: str, first: bool | None = None) -> list[float]:
    chosen = [row for row in rows if first is None or row["first"] is first]
    return [float(row[name]) for row in chosen if row.get(name) is not None]


def _mean(rows: Rows, name: str) -> float | None:
    found = _values(rows, name)
    return statistics.fmean(found) if found else None


def _median(rows: Rows, name: str, first: bool | None = None) -> float | None:
    found = _values(rows, name, first)
    return statistics.median(found) if found else None


def _error(rows: Rows) -> str:
    return "nmse_by_slice" if "nmse_by_slice" in rows[0] else "nmse"


def _per_sweep(rows: Rows) -> float | None:
    """Milliseconds, where sweeps are counted out; of ours without what bayes.fit does besides."""
    found = [
        1e3 * row.get("solver_s", row["seconds"]) / row.get("passes", row["sweeps"])
        for row in rows
        if row["engine"].endswith(f"-{FEW}") and not row["first"]
    ]
    return statistics.median(found) if found else None


def _beside_dense(rows: Rows, dense: dict[int, dict]) -> list[float]:
    """The dense one's seconds by those of fits whose log evidence is no worse."""
    return [
        dense[row["seed"]]["seconds"] / row["seconds"]
        for row in rows
        if row["seed"] in dense
        and not row["first"]
        and row.get("log_evidence", -np.inf) > dense[row["seed"]]["log_evidence"] - 0.01
    ]


COLUMNS: dict[str, Callable[[Rows], float | None]] = {
    "NMSE": lambda rows: _mean(rows, _error(rows)),
    "median": lambda rows: _median(rows, _error(rows)),
    "pooled": lambda rows: _mean(rows, "nmse"),
    "pooled median": lambda rows: _median(rows, "nmse"),
    "x oracle": lambda rows: (
        sum(_values(rows, "nmse")) / sum(found) if (found := _values(rows, "oracle")) else None
    ),
    "error": lambda rows: statistics.fmean(v**0.5 for v in _values(rows, "nmse")),
    "PSNR dB": lambda rows: _mean(rows, "psnr"),
    "covers": lambda rows: _mean(rows, "covers"),
    "cold": lambda rows: _median(rows, "seconds", True) if "solver_s" in rows[0] else None,
    "warm": lambda rows: _median(rows, "seconds", False),
    "solver": lambda rows: _median(rows, "solver_s", False if len(rows) > 1 else None),
    "moments": lambda rows: _median(rows, "moments_s", False if len(rows) > 1 else None),
    "seconds": lambda rows: _median(rows, "seconds", False if len(rows) > 1 else None),
    "sweeps": lambda rows: _median(rows, "sweeps"),
    "ms a sweep": _per_sweep,
    "evidence": lambda rows: _mean(rows, "log_evidence"),
    "GB": lambda rows: max(_values(rows, "peak_gb")),
}


def report(
    rows: Iterable[dict[str, Any]],
    columns: Mapping[str, Sequence[str]],
    engines: Sequence[str],
    *,
    markdown: bool = False,
) -> str:
    """A table for each set-up, whose columns are given by its name, and signal-to-noise ratio."""
    rows, parts = list(rows), []
    for name, shown in columns.items():
        here = [row for row in rows if row["pass"] == name]
        done = [row for row in here if row["status"] == "ok"]
        for target in dict.fromkeys(row["target"] for row in done):
            mine = [row for row in done if row["target"] == target]
            fits = [[row for row in mine if row["engine"] == engine] for engine in engines]
            lines = [_line(rows, mine, shown) for rows in fits if rows]
            parts.append(f"{'## ' if markdown else ''}{name}, {target}")
            parts.append(table(["engine", *shown], lines, markdown=markdown))
        failed = [row for row in here if row["status"] != "ok"]
        parts += [f"{r['engine']} {r['target']} seed {r['seed']}: {r['reason']}" for r in failed]
    return "\n\n".join(parts) or "nothing was measured"


def _line(rows: Rows, everybody: Rows, columns: Sequence[str]) -> list[str]:
    dense = {row["seed"]: row for row in everybody if row["engine"] == DENSE}
    cells = [rows[0]["engine"]]
    for column in columns:
        if column == "fits":
            cells.append(str(len(rows)))
        elif column in ("found", "wrong", "ok"):
            counts = _values(rows, column)
            cells.append(f"{sum(counts):.0f}" if counts else "-")
        elif column == "dense / it":
            found = _beside_dense(rows, dense)
            cells.append(number(statistics.median(found) if found else None))
        else:
            cells.append(number(COLUMNS[column](rows), 6 if column == "evidence" else 3))
    return cells
