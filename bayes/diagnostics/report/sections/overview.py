"""What was checked, what data there were, and how the posterior was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.diagnostics.checks import Check
from bayes.diagnostics.elements import draws_in_words
from bayes.diagnostics.report.cells import number
from bayes.diagnostics.report.check_words import words_of
from bayes.diagnostics.report.contents import Block, Case, Facts, Section, Table, Text
from bayes.diagnostics.report.sections.statistics import statistic
from bayes.diagnostics.report.sections.wording import json_number, said

__all__ = ["checks", "data", "method"]

_STOPS = {
    "keyboard": "The run was stopped from the keyboard before it was done.",
    "budget": "The run was stopped before it was done: its time was up.",
}


def checks(case: Case) -> Section:
    """Every check of the verdict, with what it means and what to do.

    Parameters
    ----------
    case : Case
        Its verdict.

    Returns
    -------
    Section
    """
    found = case.diagnostics
    rows = tuple(_check_row(check) for check in found.checks)
    flagged = tuple(i for i, check in enumerate(found.checks) if not check.passed)
    columns = ("check", "found", "should be", "result", "what it means and what to do")
    blocks: list[Block] = []
    if found.interrupted:
        stopped = _STOPS.get(found.interrupted, f"The run was stopped early: {found.interrupted}.")
        blocks.append(Text(f"{stopped} The checks are of the draws that there are."))
    blocks.append(Table(columns, rows, flagged=flagged))
    blocks += [Text(f"Note: {note}.") for note in found.notes]
    values = found.to_dict()
    values["checks"] = [
        {
            **dataclasses.asdict(check),
            "value": json_number(check.value),
            "threshold": json_number(check.threshold),
        }
        for check in found.checks
    ]
    return Section("checks", "Summary of checks", tuple(blocks), data=values)


def _check_row(check: Check) -> tuple[str, ...]:
    name, relation, meaning = words_of(check.name)
    wanted = f"{relation} {check.threshold:.3g}" if relation else "all"
    value = "not assessable" if np.isnan(check.value) else number(float(check.value))
    if not relation:
        value = "not all"
    advice = f"{check.advice[:1].upper()}{check.advice[1:]}." if check.advice else ""
    words = f"{meaning} {advice}".strip()
    return name, value, wanted, "passed" if check.passed else "failed", words


def data(case: Case) -> Section | None:
    """What data the model was given.

    Parameters
    ----------
    case : Case
        Its card.

    Returns
    -------
    Section or None
        None where the card says nothing of the data.
    """
    given = case.card.get("data") or ()
    if not given:
        return None
    keys = [k for k in ("kind", "shape", "range") if any(entry.get(k) for entry in given)]
    extra = dict.fromkeys(k for entry in given for k in entry if k not in ("name", *keys))
    keys += [k for k in extra if any(entry.get(k) not in (None, "", []) for entry in given)]
    rows = tuple((str(e["name"]), *(_cell(k, e.get(k)) for k in keys)) for e in given)
    caption = "What the program was given, by argument."
    table = Table(("argument", *keys), rows, caption, searchable=len(rows) > 20)
    values = [{"name": e["name"], **{k: e.get(k) for k in keys}} for e in given]
    return Section("data", "Data", (table,), data={"arguments": _finite(values)})


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        if key == "range" and len(value) == 2:
            return " to ".join(v if isinstance(v, str) else number(v) for v in value)
        return " × ".join(map(str, value))
    return number(value) if isinstance(value, float) else str(value)


def method(case: Case) -> Section | None:
    """How the posterior was made: enough to make it again.

    Parameters
    ----------
    case : Case
        Its card, and the statistics of its sampler.

    Returns
    -------
    Section or None
        None where the card says nothing of the method.
    """
    card = case.card.get("method") or {}
    if not card:
        return None
    info = card.get("info") or {}
    sizes = case.tree["posterior"].sizes
    count = sizes["chain"] * sizes["draw"]
    in_all = f", {count} in all" if sizes["chain"] > 1 else ""
    settings = ", ".join(f"{k}={_setting(v)}" for k, v in (card.get("settings") or {}).items())
    rows: list[tuple[str, Any]] = [
        ("Method", card.get("name")),
        ("Why this one", card.get("reason")),
        ("Settings", settings),
        ("Seed", card.get("seed")),
        ("Draws", draws_in_words(sizes["chain"], sizes["draw"]) + in_all),
        ("Time", _time(card.get("seconds"))),
        *_found(case, info),
        ("Finished", card.get("finished")),
        ("Report written", case.card.get("created")),
        ("Versions", _pairs(case.card.get("versions"))),
    ]
    kept = tuple((label, str(value)) for label, value in rows if value not in (None, ""))
    values = {k: card.get(k) for k in ("name", "settings", "reason", "seed", "seconds", "info")}
    values["draws"] = {"chains": sizes["chain"], "draws": sizes["draw"]}
    return Section("method", "Method", (Facts(kept),), data=_finite(values))


def _found(case: Case, info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the sampler found out on its way, in words."""
    warmup, leapfrogs = info.get("warmup"), info.get("leapfrogs")
    rows = [
        ("Warm-up", f"{warmup} iterations a chain" if warmup else None),
        ("Metric", info.get("metric")),
        ("Acceptance aimed at", info.get("target_accept")),
        ("Leapfrog steps", _total(leapfrogs) if leapfrogs else None),
    ]
    steps = statistic(case, "step_size")
    if steps is not None and np.isfinite(steps).all():
        sizes = np.median(steps, axis=1)
        same = np.ptp(sizes) <= 1e-6 * abs(sizes[0])
        words = said(sizes[0]) if same else ", ".join(said(s) for s in sizes[:8])
        rows.append(("Step size", words + ("" if same or len(sizes) <= 8 else ", …")))
    for key, label in (("restarts", "Chains started afresh"), ("copies", "Chains moved to others")):
        moved = [str(chain) for chain, times in enumerate(info.get(key) or ()) if times]
        rows.append((label, ", ".join(moved)))
    return rows


def _total(leapfrogs: Sequence[int] | int) -> str:
    total = int(np.sum(leapfrogs))
    return f"{total:,} in all, warm-up included"


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k} {v}" for k, v in (values or {}).items())


def _setting(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _finite(value: Any) -> Any:
    """The card's JSON values, None for numbers that strict JSON does not know."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
