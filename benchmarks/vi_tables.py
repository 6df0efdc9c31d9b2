"""What the rows of the benchmark of approximations amount to."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from layout import number, table
from vi_children import PASS
from vi_judging import CLOSE_MEAN, CLOSE_SD, WRONG_MEAN, WRONG_SD
from vi_roster import PEERS
from vi_targets import from_posteriordb

_LADDER, _EXACT, _PEER = "vi", "nuts", "numpyro-mvn"

_NOISE = 0.05
"""Errors below this do not tell approximations apart: it is what 4000 right draws have."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """An engine on a target, over its seeds.

    Parameters
    ----------
    cold, warm : float
        Median seconds; inf where time was up, NaN where nothing is known.
    memory : float
        Median of the most memory, MB.
    fits : list of dict
        The judged fits.
    notes : list of str
        What was not measured, and why.
    """

    cold: float
    warm: float
    memory: float
    fits: list[dict[str, Any]]
    notes: list[str]

    def most(self, column: str) -> float:
        """The largest value over the fits; NaN where nothing is known."""
        values = [fit[column] for fit in self.fits if fit.get(column) is not None]
        return max(values) if values else math.nan

    @property
    def error(self) -> float:
        """The larger of the error of means, in sd, and the relative error of sds."""
        return max(self.most("bias"), self.most("sd"))

    @property
    def trusted(self) -> bool:
        """Whether every fit was called ok."""
        return bool(self.fits) and all(fit["ok"] for fit in self.fits)


class Results:
    """Cells by engine and target; weighted draws count as an engine of their own.

    Parameters
    ----------
    rows : iterable of dict
        Rows of a run.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if row["pass"] == PASS]
        self.targets = list(dict.fromkeys(row["target"] for row in self.rows))
        self.engines: list[str] = []
        for name in dict.fromkeys(row["engine"] for row in self.rows):
            mine = [row for row in self.rows if row["engine"] == name]
            weighs = any("cold_weights_s" in row for row in mine)
            self.engines += [name, f"{name}+psis"] if weighs else [name]

    def of(self, engine: str, target: str) -> Cell:
        """What is known of an engine on a target."""
        name, _, weighted = engine.partition("+")
        rows = [r for r in self.rows if (r["engine"], r["target"]) == (name, target)]
        suffix = "_weights" if weighted else ""
        fits = [r[w + suffix] for r in rows for w in ("cold", "warm") if w + suffix in r]
        return Cell(
            _median(_seconds(row, "cold", suffix) for row in rows),
            _median(_seconds(row, "warm", suffix) for row in rows),
            _median(row.get("peak_mb", math.nan) for row in rows),
            fits,
            [] if weighted else list(dict.fromkeys(filter(None, map(_trouble, rows)))),
        )


def _seconds(row: dict[str, Any], which: str, suffix: str) -> float:
    if f"{which}_s" in row:
        return row[f"{which}_s"] + (row.get(f"{which}{suffix}_s", math.nan) if suffix else 0.0)
    return math.inf if row["status"] == "timeout" else math.nan


def _trouble(row: dict[str, Any]) -> str:
    if row["status"] == "timeout":
        return f"over {row['timeout']:g} s"
    return "" if row["status"] == "ok" else f"{row['status']}, {row['reason']}"


def _median(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return statistics.median(known) if known else math.nan


def _mean(ratios: Sequence[float]) -> str:
    """Geometric mean."""
    return number(math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None)


def report(rows: Iterable[dict[str, Any]], *, markdown: bool = False) -> str:
    """All tables."""
    results = Results(rows)
    if not results.rows:
        return "nothing was measured"
    head = "## " if markdown else ""
    parts = []
    for target in results.targets:
        parts += [f"{head}{target}", _target_table(results, target, markdown)]
    parts += [f"{head}wrong but called ok", _trust(results, markdown)]
    if _LADDER in results.engines:
        parts += [f"{head}{_LADDER} on posteriordb", _goal(results, markdown)]
        if any(row["engine"] in PEERS for row in results.rows):
            parts += [f"{head}peers / {_LADDER}", _overview(results, markdown)]
        if _PEER in results.engines:
            parts += [f"{head}{_PEER} / {_LADDER}", _against(results, _PEER, markdown)]
    versions = {k: v for row in results.rows for k, v in row.get("versions", {}).items()}
    told = "".join(f", {k} {v}" for k, v in versions.items())
    loads = [row["load"] for row in results.rows]
    seeds = len({row["seed"] for row in results.rows})
    parts.append(
        f"{seeds} seed(s). {results.rows[-1]['machine']}{told}. Load average when a process was "
        f"started: median {statistics.median(loads):.1f}, at most {max(loads):.1f}."
    )
    return "\n\n".join(parts)


def _khat(value: float) -> str:
    """K-hat; ratios that are all the same have one of minus infinity."""
    return "none" if value < -10 else f"{value:.2f}" if math.isfinite(value) else "-"


def _way(fits: Iterable[dict[str, Any]]) -> str:
    """Which rung of a ladder a fit came to, and what was done to its draws."""
    ways = [", ".join(f["about"][k] for k in ("rung", "route") if k in f["about"]) for f in fits]
    return " / ".join(dict.fromkeys(filter(None, ways))) or "-"


def _share(answers: Iterable[bool | None]) -> str:
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)}/{len(known)}" if known else "-"


def _target_table(results: Results, target: str, markdown: bool) -> str:
    heads = ["engine", "cold", "warm", "MB", "bias", "sd err", "rms bias", "k-hat", "close", "ok"]
    heads.append("way")
    lines, notes = [], []
    for engine in results.engines:
        cell = results.of(engine, target)
        cells = [number(v) for v in (cell.cold, cell.warm)]
        cells.append("-" if math.isnan(cell.memory) else f"{cell.memory:.0f}")
        cells += [number(cell.most(column), 2) for column in ("bias", "sd", "rms_bias")]
        cells.append(_khat(cell.most("khat")))
        cells += [_share(f["close"] for f in cell.fits), _share(f["ok"] for f in cell.fits)]
        cells.append(_way(cell.fits))
        if set(cells) != {"-"}:
            lines.append([engine, *cells])
        notes += [f"{engine}: {note}" for note in cell.notes]
        failed = sorted({name for fit in cell.fits for name in fit["failed"]})
        if failed:
            notes.append(f"{engine} objects: {', '.join(failed)}")
    return "\n\n".join([table(heads, lines, markdown=markdown), *notes])


def _trust(results: Results, markdown: bool) -> str:
    """An engine's fits by what they are and by what they are called."""
    heads = ["engine", "fits", "close", "wrong", "called ok", "close and ok", "wrong but ok"]
    lines, names = [], []
    for engine in results.engines:
        fits = [(t, fit) for t in results.targets for fit in results.of(engine, t).fits]
        fits = [(t, fit) for t, fit in fits if fit["wrong"] is not None]
        judged = [fit for _, fit in fits if fit["ok"] is not None]
        missed = [t for t, fit in fits if fit["ok"] and fit["wrong"]]
        lines.append([engine, len(fits), *(sum(f[k] for _, f in fits) for k in ("close", "wrong"))])
        counts = [sum(f["ok"] for f in judged), sum(f["ok"] and f["close"] for f in judged)]
        lines[-1] += [*counts, len(missed)] if judged else ["-", "-", "-"]
        if missed:
            names.append(f"{engine}: {', '.join(dict.fromkeys(missed))}")
    told = (
        f"Close: means within {CLOSE_MEAN:g} sd, sds within {CLOSE_SD:.0%}. Wrong: a mean off by "
        f"more than {WRONG_MEAN:g} sd, or an sd by more than {WRONG_SD:.0%}."
    )
    missed = ["Wrong but called ok: " + ("; ".join(names) if names else "none.")]
    return "\n\n".join([table(heads, lines, markdown=markdown), told, *missed])


def _goal(results: Results, markdown: bool) -> str:
    """The ladder on the posteriors of posteriordb, and its time beside NUTS's."""
    heads = ["target", "bias", "sd err", "k-hat", "close", "ok", "warm", f"{_EXACT} warm", "ratio"]
    lines, ratios, good_ratios, good = [], [], [], 0
    targets = [t for t in results.targets if from_posteriordb(t)]
    for target in targets:
        ours, exact = results.of(_LADDER, target), results.of(_EXACT, target)
        ratio = _ratio(ours.warm, exact.warm)
        close = bool(ours.fits) and all(fit["close"] for fit in ours.fits)
        good += close and ours.trusted
        if not math.isnan(ratio):
            ratios.append(ratio)
            if close and ours.trusted:
                good_ratios.append(ratio)
        cells = [number(ours.most(column), 2) for column in ("bias", "sd")]
        cells += [_khat(ours.most("khat")), _share(f["close"] for f in ours.fits)]
        cells += [_share(f["ok"] for f in ours.fits)]
        lines.append([target, *cells, *map(number, (ours.warm, exact.warm, ratio))])
    told = (
        f"Ok and close in every fit: {good} of {len(targets)}. Warm time by that of {_EXACT}, "
        f"geometric mean: {_mean(ratios)} over {len(ratios)}; over those that are ok and close: "
        f"{_mean(good_ratios)}."
    )
    return "\n\n".join([table(heads, lines, markdown=markdown), told])


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if 0 < ours < math.inf and 0 < theirs < math.inf else math.nan


def _no_worse(ours: Cell, theirs: Cell) -> bool:
    return ours.error <= max(theirs.error, _NOISE)


def _overview(results: Results, markdown: bool) -> str:
    """A peer a line: its seconds by those of the ladder where that is no worse."""
    heads = ["engine", "targets", "no worse", "cold there", "warm there", "cold all", "warm all"]
    lines = []
    for engine in results.engines:
        if engine.partition("+")[0] not in PEERS:
            continue
        pairs = [(results.of(_LADDER, t), results.of(engine, t)) for t in results.targets]
        pairs = [(a, b) for a, b in pairs if not math.isnan(a.error) and not math.isnan(b.error)]
        there = [(a, b) for a, b in pairs if _no_worse(a, b)]
        cells = [str(len(pairs)), str(len(there))]
        for chosen in (there, pairs):
            for which in ("cold", "warm"):
                times = [_ratio(getattr(b, which), getattr(a, which)) for a, b in chosen]
                cells.append(_mean([t for t in times if not math.isnan(t)]))
        lines.append([engine, *cells])
    told = (
        f"Seconds of the peer by those of {_LADDER}, geometric means: first over the targets where "
        f"{_LADDER} is no worse, then over all that both finished. No worse: its error, the larger "
        f"of bias and sd err, is equal or smaller; below {_NOISE:g} all are equal."
    )
    return "\n\n".join([table(heads, lines, markdown=markdown), told])


def _against(results: Results, peer: str, markdown: bool) -> str:
    """The ladder beside one peer, target by target."""
    heads = ["target", "bias", "their bias", "sd err", "their sd err", "no worse", "cold", "warm"]
    lines, found = [], {"cold": [], "warm": []}
    for target in results.targets:
        ours, theirs = results.of(_LADDER, target), results.of(peer, target)
        cells = [number(cell.most(c), 2) for c in ("bias", "sd") for cell in (ours, theirs)]
        known = not (math.isnan(ours.error) or math.isnan(theirs.error))
        better = known and _no_worse(ours, theirs)
        ratios = {w: _ratio(getattr(theirs, w), getattr(ours, w)) for w in found}
        for which, ratio in ratios.items():
            if better and not math.isnan(ratio):
                found[which].append(ratio)
        verdict = ("yes" if better else "no") if known else "-"
        lines.append([target, *cells, verdict, *map(number, ratios.values())])
    means = [_mean(ratios) for ratios in found.values()]
    lines.append(["geometric mean where no worse", *[""] * 5, *means])
    return table(heads, lines, markdown=markdown)
