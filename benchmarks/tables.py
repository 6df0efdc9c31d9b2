"""What the rows of a run amount to: a table a target, ratios over the targets, counts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from judging import MAX_RHAT, MIN_ESS
from layout import number, table

_FIGURES = {
    "draws": "draws",
    "bulk": "bulk",
    "tail": "tail",
    "rhat": "R-hat",
    "rate": "ESS/s",
    "warm_400": "to 400",
    "leapfrogs": "leaps",
    "total": "total",
    "divergences": "div",
    "z": "max|z|",
    "sd": "sd err",
}
_SECONDS = {
    "import_s": "import",
    "cold_s": "cold",
    "cached_s": "cached",
    "process_s": "process",
    "warm_s": "warm",
}
_RATIOS = {
    "cold_s": "cold",
    "cached_s": "cached",
    "process_s": "process",
    "warm_s": "warm",
    "cold_400": "cold to 400",
    "cached_400": "cached to 400",
    "warm_400": "warm to 400",
    "rate": "ESS/s",
}


class Results:
    """Medians over the seeds.

    Parameters
    ----------
    rows : iterable of dict
        Rows of a run.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if row["pass"] in ("first", "second")]
        self.engines = list(dict.fromkeys(r["engine"] for r in self.rows))
        self.targets = list(dict.fromkeys(r["target"] for r in self.rows))

    def of(self, engine: str, target: str, which: str) -> list[dict[str, Any]]:
        """The rows of a pass that measured something."""
        return [
            row
            for row in self.rows
            if (row["engine"], row["target"], row["pass"]) == (engine, target, which)
            and row["status"] in ("ok", "timeout")
        ]

    def fits(self, engine: str, target: str) -> list[dict[str, Any]]:
        """The judged fits, two a seed."""
        rows = self.of(engine, target, "first")
        return [row[fit] for row in rows for fit in ("cold", "warm") if fit in row]

    def median(self, engine: str, target: str, column: str) -> float:
        """The median over the seeds; inf where time was up, NaN where nothing is known."""
        if column in ("cached_s", "process_s", "cached_400"):
            # A first process that ran out of time has no second one.
            first = self.of(engine, target, "first")
            late = [float("inf") for row in first if row["status"] == "timeout"]
            ess = {row["seed"]: _ess(row.get("cold")) for row in first}
            values = [_cell(r, column, ess) for r in self.of(engine, target, "second")] + late
        else:
            values = [_cell(row, column, {}) for row in self.of(engine, target, "first")]
        known = [v for v in values if v is not None and not np.isnan(v)]
        return statistics.median(known) if known else float("nan")


def _ess(figures: dict[str, Any] | None) -> float | None:
    return None if figures is None else min(figures["bulk"], figures["tail"])


def _cell(row: dict[str, Any], column: str, ess_by_seed: dict[int, Any]) -> float | None:
    name, _, rest = column.partition("_")
    if rest == "s" or rest == "400" or column == "rate":
        seconds = row.get("warm_s" if column == "rate" else f"{name}_s")
        if seconds is None and row["status"] == "timeout":
            return 0.0 if column == "rate" else float("inf")
        if seconds is None:
            return None
        if rest == "s":
            return seconds
        ess = ess_by_seed.get(row["seed"]) if name == "cached" else _ess(row.get(_fit(column)))
        if ess is None:
            return None
        if column == "rate":
            return ess / seconds
        return seconds * MIN_ESS / min(ess, MIN_ESS) if ess > 0 else float("inf")
    return row.get("warm", {}).get(column)


def _fit(column: str) -> str:
    return "cold" if column == "cold_400" else "warm"


def report(rows: Iterable[dict[str, Any]], *, markdown: bool = False) -> str:
    """All tables."""
    results = Results(rows)
    if not results.rows:
        return "nothing was measured"
    head = "## " if markdown else ""
    parts = []
    for target in results.targets:
        parts += [f"{head}{target}", _target_table(results, target, markdown)]
    if "bayes" in results.engines:
        for peer in results.engines:
            if peer != "bayes":
                parts += [f"{head}{peer} / bayes", _ratio_table(results, peer, markdown)]
    parts += [f"{head}right and wrong", _counts(results, markdown)]
    versions = {k: v for row in results.rows for k, v in row.get("versions", {}).items()}
    told = "".join(f", {k} {v}" for k, v in versions.items())
    seeds = len({row["seed"] for row in results.rows})
    loads = [row["load"] for row in results.rows]
    parts.append(
        f"Medians over {seeds} seed(s). {results.rows[-1]['machine']}{told}. Load average when a "
        f"process was started: median {statistics.median(loads):.1f}, at most {max(loads):.1f}."
    )
    return "\n\n".join(parts)


def _target_table(results: Results, target: str, markdown: bool) -> str:
    heads = ["engine", *_SECONDS.values(), *_FIGURES.values(), "right", "ok"]
    lines, notes = [], []
    for engine in results.engines:
        cells = [number(results.median(engine, target, c)) for c in _SECONDS]
        for column in _FIGURES:
            # R-hat is told apart in its fourth decimal.
            digits = 5 if column == "rhat" else 3
            cells.append(number(results.median(engine, target, column), digits))
        fits = results.fits(engine, target)
        cells += [_share(fit["right"] for fit in fits), _share(fit["ok"] for fit in fits)]
        if set(cells) != {"-"}:
            lines.append([engine, *cells])
        notes += _trouble(results, engine, target)
    return "\n\n".join([table(heads, lines, markdown=markdown), *notes])


def _trouble(results: Results, engine: str, target: str) -> list[str]:
    """What was not measured, and why; what the engine's own verdict objected to."""
    notes: dict[str, None] = {}
    for row in results.rows:
        if (row["engine"], row["target"]) != (engine, target):
            continue
        if row["status"] == "timeout":
            notes[f"{engine}: over {row['timeout']:g} s"] = None
        elif row["status"] != "ok":
            notes[f"{engine}: {row['status']}, {row['reason']}"] = None
    objections = sorted({name for fit in results.fits(engine, target) for name in fit["failed"]})
    if objections:
        notes[f"{engine} objects: {', '.join(objections)}"] = None
    return list(notes)


def _share(answers: Iterable[bool | None]) -> str:
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)}/{len(known)}" if known else "-"


def _ratio(results: Results, peer: str, target: str, column: str) -> float:
    """How many times better bayes is: its time below the peer's, its rate above."""
    theirs_column = column
    if column.startswith("cached") and not _keeps(peer):
        theirs_column = column.replace("cached", "cold")
    ours = results.median("bayes", target, column)
    theirs = results.median(peer, target, theirs_column)
    if not (0 < ours < float("inf") and 0 < theirs < float("inf")):
        return float("nan")
    return ours / theirs if column == "rate" else theirs / ours


def _keeps(engine: str) -> bool:
    from roster import engine_class

    return engine_class(engine).cached


def _ratio_table(results: Results, peer: str, markdown: bool) -> str:
    lines, columns = [], {column: [] for column in _RATIOS}
    for target in results.targets:
        ratios = [_ratio(results, peer, target, column) for column in _RATIOS]
        if np.isnan(ratios).all():
            continue
        lines.append([target, *map(number, ratios)])
        for column, ratio in zip(_RATIOS, ratios, strict=True):
            columns[column].append(ratio)
    known = {c: np.asarray([v for v in vs if not np.isnan(v)]) for c, vs in columns.items()}
    means = [number(float(np.exp(np.log(v).mean())) if len(v) else None) for v in known.values()]
    lines.append(["geometric mean", *means])
    lines.append(["of so many targets", *[str(len(v)) for v in known.values()]])
    return table(["target", *_RATIOS.values()], lines, markdown=markdown)


def _counts(results: Results, markdown: bool) -> str:
    heads = ["engine", "fits", "R-hat, ESS pass", "with a reference", "right", "wrong"]
    heads += ["called ok", "wrong but called ok"]
    lines, notes = [], []
    for engine in results.engines:
        fits = [(t, fit) for t in results.targets for fit in results.fits(engine, t)]
        compared = [(t, fit) for t, fit in fits if fit["right"] is not None]
        right = sum(fit["right"] for _, fit in compared)
        mixed = sum(fit["rhat"] < MAX_RHAT and _ess(fit) >= MIN_ESS for _, fit in fits)
        verdicts = [fit["ok"] for _, fit in fits if fit["ok"] is not None]
        missed = [t for t, fit in compared if fit["ok"] and not fit["right"]]
        lines.append([engine, len(fits), mixed, len(compared), right, len(compared) - right])
        lines[-1] += [sum(verdicts), len(missed)] if verdicts else ["-", "-"]
        wrong = {t: sum(t == u and not f["right"] for u, f in compared) for t in results.targets}
        names = [f"{t} ({n})" for t, n in wrong.items() if n]
        if names:
            notes.append(f"{engine} wrong: {', '.join(names)}")
        if missed:
            notes.append(f"{engine} wrong but called ok: {', '.join(sorted(set(missed)))}")
    return "\n\n".join([table(heads, lines, markdown=markdown), *notes])
