"""The table of all elements of a posterior."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes.diagnostics.checks import ESS, RHAT, SPREAD_ERROR
from bayes.diagnostics.report.contents import Case, Section, Table, Text
from bayes.diagnostics.report.sections.statistics import (
    Elements,
    elements_of,
    is_markov,
    worst_first,
)
from bayes.diagnostics.report.sections.wording import json_number

__all__ = ["parameters"]

_WORST = 20
_SEARCHED = 20


def parameters(case: Case) -> Section | None:
    """Every element: mean, spread, interval, and how well they are known.

    Parameters
    ----------
    case : Case
        Its posterior.

    Returns
    -------
    Section or None
        None where the posterior has no element.
    """
    found = elements_of(case)
    if not len(found):
        return None
    markov = is_markov(case)
    flagged = tuple(map(int, np.flatnonzero(found.flagged)))
    table = Table(
        _columns(found, markov),
        _rows(found, markov),
        _caption(found, markov),
        searchable=len(found) > _SEARCHED,
        flagged=flagged,
    )
    return Section("parameters", "Parameters", (Text(_text(found)), table), data=_data(found))


def _columns(found: Elements, markov: bool) -> tuple[str, ...]:
    low, high = (f"{100 * p:.3g} %" for p in ((1 - found.prob) / 2, (1 + found.prob) / 2))
    label = ("label",) if any(found.labels) else ()
    chains = ("R-hat", "bulk ESS", "tail ESS", "MCSE of mean", "MCSE of sd") if markov else ()
    return ("parameter", *label, "mean", "sd", low, high, *chains)


def _rows(found: Elements, markov: bool) -> tuple[tuple[str | float | int | None, ...], ...]:
    texts = [found.names, found.labels] if any(found.labels) else [found.names]
    numbers: list[list[Any]] = [c.tolist() for c in (found.mean, found.sd, found.low, found.high)]
    if markov:
        numbers.append(found.rhat.tolist())
        numbers += [_whole(found.bulk), _whole(found.tail)]
        numbers += [found.mean_error.tolist(), found.sd_error.tolist()]
    return tuple(zip(*texts, *numbers, strict=True))


def _whole(sizes: np.ndarray) -> list[int | float]:
    return [int(size) if np.isfinite(size) else float(size) for size in sizes]


def _caption(found: Elements, markov: bool) -> str:
    ends = f"The interval holds the central {100 * found.prob:.3g} % of the draws."
    if not markov:
        return ends
    return (
        f"{ends} MCSE is the Monte Carlo standard error. Flagged where R-hat is not below "
        f"{RHAT:g}, an effective sample size (ESS) is below {ESS}, or the error of the sd is more "
        f"than {100 * SPREAD_ERROR:g} % of it."
    )


def _text(found: Elements) -> str:
    sites = len(dict.fromkeys(found.sites))
    count, constant, flagged = len(found), int(found.constant.sum()), int(found.flagged.sum())
    parts = [f"{count} numbers in {sites} sites" if count > 1 else "One number"]
    if constant:
        parts.append(f"{constant} of them constant, which nothing is estimated of")
    parts.append(f"{flagged} flagged" if flagged else "none flagged")
    return f"{', '.join(parts)}."


def _data(found: Elements) -> dict[str, Any]:
    worst = worst_first(found)[:_WORST]
    return {
        "elements": len(found),
        "constant": int(found.constant.sum()),
        "flagged": int(found.flagged.sum()),
        "interval": found.prob,
        "thresholds": {"rhat": RHAT, "ess": ESS, "sd_error": SPREAD_ERROR},
        "worst": [_values(found, int(place)) for place in worst],
    }


def _values(found: Elements, place: int) -> dict[str, Any]:
    columns = {
        "mean": found.mean,
        "sd": found.sd,
        "low": found.low,
        "high": found.high,
        "rhat": found.rhat,
        "ess_bulk": found.bulk,
        "ess_tail": found.tail,
        "mcse_mean": found.mean_error,
        "mcse_sd": found.sd_error,
    }
    numbers = {name: json_number(column[place]) for name, column in columns.items()}
    label = {"label": found.labels[place]} if found.labels[place] else {}
    return {"name": found.names[place], **label, **numbers}
