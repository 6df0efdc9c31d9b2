"""Time an effective draw as the posterior or its data grow, with slopes in log-log.

    python benchmarks/growth.py [--families NAME ...] [--sizes N ...] [--seeds N]
    python benchmarks/growth.py --report FILE [--markdown]

Seconds are those of a warm fit, divided by the smaller of bulk and tail effective sample size of
the worst coordinate. NumPyro has its compilation cache, so that compilation does not count. Sizes
beyond one that took too long are left out.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from children import Record, Setup, measure, read
from layout import number, table
from roster import NAMES

DIMENSIONS = (10, 30, 100, 300, 1000, 3000, 10000)
FAMILIES = {
    "diagonal": DIMENSIONS,
    "autoregression": DIMENSIONS,
    "rows": (1000, 10000, 100000, 1000000),
}


def report(rows: Iterable[dict[str, Any]], *, markdown: bool = False) -> str:
    """A table a family: milliseconds an effective draw by size, and the slope of each engine."""
    rows = [row for row in rows if row["pass"] == "warm"]
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    parts = []
    for family in FAMILIES:
        found = {engine: _by_size(rows, engine, family) for engine in engines}
        sizes = sorted({size for points in found.values() for size in points})
        if not sizes:
            continue
        heads = ["size", *[f"{engine} {what}" for engine in engines for what in _COLUMNS]]
        lines = []
        for size in sizes:
            cells = [found[engine].get(size, dict.fromkeys(_COLUMNS)) for engine in engines]
            lines.append([str(size), *[number(c[what]) for c in cells for what in _COLUMNS]])
        slopes = [f"{engine} {number(_slope(found[engine]))}" for engine in engines]
        parts += [f"## {family}" if markdown else family, table(heads, lines, markdown=markdown)]
        parts.append("slope of ms/ESS in log-log: " + ", ".join(slopes))
        trouble = [r for r in rows if r["target"].startswith(f"{family}:") and r["status"] != "ok"]
        for row in trouble:
            reason = f"over {row['timeout']:g} s" if row["status"] == "timeout" else row["reason"]
            parts.append(f"{row['engine']} {row['target']}: {reason}")
    return "\n\n".join(parts) or "nothing was measured"


_COLUMNS = ("warm s", "ESS", "leaps", "ms/ESS", "max|z|", "sd err")


def _by_size(
    rows: list[dict[str, Any]], engine: str, family: str
) -> dict[int, dict[str, float | None]]:
    """Medians over the seeds by size."""
    points: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        name, _, size = row["target"].partition(":")
        if (row["engine"], name, row["status"]) == (engine, family, "ok"):
            points.setdefault(int(size), []).append(row)
    return {size: _medians(found) for size, found in points.items()}


def _medians(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    ess = [min(row["warm"]["bulk"], row["warm"]["tail"]) for row in rows]
    each = {
        "warm s": [row["warm_s"] for row in rows],
        "ESS": ess,
        "leaps": [row["warm"]["leapfrogs"] for row in rows],
        "ms/ESS": [
            1e3 * row["warm_s"] / e if e > 0 else float("inf")
            for row, e in zip(rows, ess, strict=True)
        ],
        "max|z|": [row["warm"]["z"] for row in rows if "z" in row["warm"]],
        "sd err": [row["warm"]["sd"] for row in rows if "sd" in row["warm"]],
    }
    return {name: statistics.median(values) if values else None for name, values in each.items()}


def _slope(points: dict[int, dict[str, float | None]]) -> float | None:
    """Slope of the least squares line through the logarithms."""
    known = [(size, p["ms/ESS"]) for size, p in points.items() if np.isfinite(p["ms/ESS"])]
    if len(known) < 2:
        return None
    sizes, costs = np.log(np.asarray(known, float)).T
    return float(np.polyfit(sizes, costs, 1)[0])


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--sizes", nargs="+", type=int, help="in place of a family's own")
    parser.add_argument("--engines", nargs="+", choices=NAMES, default=["bayes", "numpyro-cache"])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a process")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/growth.jsonl"))
    parser.add_argument("--report", type=pathlib.Path, help="print the tables of a file only")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    options = parser.parse_args()
    if options.report:
        print(report(read(options.report), markdown=options.markdown))
        return
    setup, record = Setup(options.timeout), Record(options.out)
    slow: set[tuple[str, str]] = set()
    for family in options.families:
        for size in sorted(options.sizes or FAMILIES[family]):
            for engine in options.engines:
                for seed in range(options.seeds):
                    if (engine, family) not in slow:
                        target = f"{family}:{size}"
                        measure(setup, record, engine, target, seed, pair=False)
                        if record.timed_out(engine, target, seed, "warm"):
                            slow.add((engine, family))  # what is larger would take longer still
    print()
    print(report(read(options.out), markdown=options.markdown))


if __name__ == "__main__":
    main()
