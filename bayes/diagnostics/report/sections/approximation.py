"""Whether an approximation covers the posterior, by its importance ratios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.diagnostics.importance import Ratios, importance_ratios
from bayes.diagnostics.pointwise import log_density
from bayes.diagnostics.report.contents import Block, Case, Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.elements import (
    draws_by_element,
    element_names,
    sampled_sites,
)
from bayes.diagnostics.report.sections.statistics import statistic
from bayes.diagnostics.report.sections.traces import traces
from bayes.diagnostics.report.sections.wording import json_number, listed, said

__all__ = ["approximation"]

NAME, TITLE = "approximation", "Quality of the approximation"
GOOD, USABLE = 0.5, 0.7
FAR = 0.2
"""Difference of means, in standard deviations of NUTS, that a reader would notice."""
_FEWEST, _ROWS, _SEARCHED = 25, 500, 20
_NOTHING = -30.0
"""A log ratio, less the median, of next to no weight."""
_ROUTES = {
    "raw": "the draws are the approximation's own",
    "psis": "the draws were resampled by their importance weights",
    "nuts": "the draws are those of NUTS chains started from the approximation",
}
_OBJECTIONS = ("objective", "importance_ess", "mean_shift", "sd_shift", "stuck_sites")
"""Checks that can object to draws that k-hat has nothing against, besides those of moves."""


def approximation(case: Case) -> Section | None:
    """How well the approximation covers the posterior, and how it was found.

    Parameters
    ----------
    case : Case
        Statistics log_q and lp, or the groups log_prior and log_likelihood in its place; the group
        ``importance`` where the draws were resampled, with both at what they were chosen from; the
        group ``nuts`` where draws of a NUTS run are there to compare with.

    Returns
    -------
    Section or None
        None for an exact method.
    """
    info = case.card.get("method", {}).get("info") or {}
    log_q = statistic(case, "log_q")
    if log_q is None:
        return _refined(info) if info.get("route") == "nuts" else None
    blocks: list[Block] = []
    data: dict[str, Any] = {}
    missing = []
    log_p, kept_q = _log_densities(case, log_q)
    resampled = "importance" in case.tree.children
    if log_p is None:
        missing.append(
            "k-hat needs the log density at the draws: the statistic lp, or the groups log_prior "
            "and log_likelihood"
        )
    else:
        finite = np.isfinite(log_p) & np.isfinite(kept_q)
        if finite.sum() < _FEWEST:
            missing.append(f"k-hat needs {_FEWEST} draws of finite log density")
        else:
            ratios = importance_ratios(log_p[finite], kept_q[finite])
            lost = int((~finite).sum())
            blocks += [
                Text(_verdict(ratios, lost, resampled, case)),
                Facts(_facts(ratios, case, info)),
                _figure(ratios, resampled),
            ]
            data |= {
                "khat": json_number(ratios.khat),
                "equal_ratios": bool(np.isneginf(ratios.khat)),
                "ess": json_number(ratios.ess),
                "draws": int(finite.sum()),
                "not_finite": lost,
            }
    if said_of_route := _route(info, log_q.size, len(kept_q) if resampled else None):
        blocks.append(Text(said_of_route))
        data |= {k: info[k] for k in ("route", "out_of_distribution") if k in info}
    if isinstance(info.get("moves"), Mapping):
        blocks.append(Text(_moves(info["moves"])))
        data["moves"] = {k: json_number(v) for k, v in info["moves"].items() if _is_number(v)}
    blocks += traces(info)
    if "nuts" in case.tree.children:
        text, table, far = _against_nuts(case)
        blocks += [text, table]
        data["far_from_nuts"] = far
    elif "nuts" in case.absent:
        missing.append(f"draws of NUTS to compare with: {case.absent['nuts']}")
    return Section(NAME, TITLE, tuple(blocks), "; ".join(missing), data)


def _refined(info: Mapping[str, Any]) -> Section:
    """What to say of chains that were started from an approximation: it is not what is judged."""
    known = info.get("approximation") or {}
    text = (
        f"Route nuts: {_ROUTES['nuts']}. The verdict is on these chains alone; the approximation "
        "gave their starts and their first metric."
    )
    if why := known.get("not_converged"):
        text += f" It had not converged itself ({why}), which makes a warm-up longer, no worse."
    data = {"route": "nuts", "approximation_converged": not why}
    return Section(NAME, TITLE, (Text(text), *traces(known)), data=data)


def _log_densities(case: Case, log_q: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Log density of the posterior and of the approximation at the same draws.

    Those that were resampled say nothing by their own ratios: a narrow approximation's look bounded
    once the few heavy draws are there many times.
    """
    if "importance" in case.tree.children:
        candidates = case.tree["importance"].to_dataset()
        return candidates["lp"].values, candidates["log_q"].values
    lp = statistic(case, "lp")
    if lp is not None:
        return lp.ravel(), log_q.ravel()
    if not {"log_prior", "log_likelihood"} <= set(case.tree.children):
        return None, log_q.ravel()
    prior, likelihood = (case.tree[g].to_dataset() for g in ("log_prior", "log_likelihood"))
    density = log_density(prior) + log_density(likelihood)
    at = case.tree["sample_stats"].to_dataset()["log_q"]
    at = at.sel(chain=density["chain"], draw=density["draw"]).transpose("chain", "draw")
    return density.values.ravel(), at.values.ravel()


def _objections(case: Case) -> list[str]:
    """What the verdict's other checks have against the approximation, in their words."""
    return [
        check.advice or check.name
        for check in case.diagnostics.failed
        if check.name in _OBJECTIONS or check.name.startswith("moved_")
    ]


def _verdict(ratios: Ratios, lost: int, resampled: bool, case: Case) -> str:
    objections = _objections(case)
    excused = any(check.name == "khat" and check.passed for check in case.diagnostics.checks)
    text = f"k-hat of the importance ratios is {ratios.khat:.2f}"
    if np.isneginf(ratios.khat) and not objections:
        text = "The approximation is the posterior: log p − log q is the same at every draw."
    elif np.isneginf(ratios.khat):
        text = "log p − log q is the same at every draw. Yet:"
    elif ratios.khat < USABLE and objections:
        text += ", which speaks for the approximation where it has draws. Yet:"
    elif ratios.khat < GOOD:
        text += ": the approximation covers the posterior well, and " + (
            "the weights by which the draws were chosen make up for what is left."
            if resampled
            else "reweighting its draws makes up for what is left."
        )
    elif ratios.khat < USABLE:
        text += ": the approximation is usable " + (
            "as its draws were resampled by their weights; its own would not be."
            if resampled
            else "when its draws are reweighted (refine='psis'); as they are, intervals may be off."
        )
    elif excused:
        text += (
            f", above {USABLE}, but the ratios are so nearly equal that the shape of their tail "
            "does not matter" + (". Yet:" if objections else ".")
        )
    else:
        text += (
            f", above {USABLE}: the approximation misses part of the posterior, its means and "
            "above all its intervals are not to be trusted, and reweighting cannot repair it. Fit "
            "with NUTS, start it from these draws (refine='nuts'), or take a richer approximation "
            "or another parametrisation."
        )
        text += " Besides:" if objections else ""
    if objections:
        text += "".join(f" {each[:1].upper()}{each[1:]}." for each in objections)
    if lost:
        text += f" {lost} draws have no finite log density and were left out."
    return text


def _facts(ratios: Ratios, case: Case, info: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    count = len(ratios.log_ratios)
    spread = float(np.diff(np.percentile(ratios.log_ratios, (5, 95)))[0])
    khat = "none: all ratios are equal" if np.isneginf(ratios.khat) else f"{ratios.khat:.2f}"
    rows = [
        ("Pareto k-hat", f"{khat} (good below {GOOD}, usable below {USABLE})"),
        ("effective number of weighted draws", f"{said(float(round(ratios.ess)))} of {count}"),
        ("spread of log p − log q", f"{said(spread)} between its 5 % and 95 % quantiles"),
    ]
    method = case.card.get("method", {}).get("name")
    if method:
        rows.insert(0, ("method", str(method)))
    shifts = {check.name: check.value for check in case.diagnostics.checks}
    if "mean_shift" in shifts:
        value = said(shifts["mean_shift"], 2)
        rows.append(("largest change of a mean by the weights", f"{value} standard deviations"))
    if "sd_shift" in shifts:
        value = said(100 * shifts["sd_shift"], 2)
        rows.append(("largest change of an sd by the weights", f"{value} % of it"))
    if "route" in info:
        rows.append(("route", str(info["route"])))
    return tuple(rows)


def _figure(ratios: Ratios, resampled: bool) -> Figure:
    values = ratios.log_ratios - np.median(ratios.log_ratios)
    low = max(values.min(), np.percentile(values, 0.2) - 1e-9, _NOTHING)
    left = int((values < _NOTHING).sum())
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, axes = plt.subplots(figsize=(6.4, 2.5))
        axes.hist(
            values, np.linspace(low, max(values.max(), low + 1e-9), 50), color=COLOURS[0], alpha=0.6
        )
        axes.axvline(0, color=ink, linestyle="--", linewidth=0.8)
        axes.set_xlabel("log p − log q, less its median")
        axes.set_ylabel("draws")
        largest = float(values.max())
        what = "what the draws were chosen from" if resampled else "the draws"
        caption = (
            f"Log importance ratios of {what}. Under a good approximation they are close "
            "together, and end soon on the right: draws far on the right are of a region with "
            f"more posterior mass than the approximation gives it. Here the largest is "
            f"{largest:.1f} above the median, a weight {said(float(np.exp(min(largest, 700))), 2)} "
            "times as large."
        )
        if left:
            caption += f" {left} draws further left, of next to no weight, are not shown."
        return picture(figure, caption, "Histogram of the log importance ratios of the draws.")


def _route(info: Mapping[str, Any], draws: int, candidates: int | None) -> str:
    parts = []
    if "route" in info:
        route = str(info["route"])
        parts.append(f"Route {route}: {_ROUTES[route]}." if route in _ROUTES else f"Route {route}.")
    if candidates is not None:
        parts.append(
            f"These {draws} draws were chosen from {candidates} candidates, some of them more "
            "than once: k-hat and the effective number are those of the candidates, and the Monte "
            "Carlo error of a mean is that of the effective number."
        )
    check = info.get("out_of_distribution")
    if isinstance(check, Mapping):
        facts = ", ".join(f"{k} {v}" for k, v in check.items())
        parts.append(f"Check of the data against those of training: {facts}.")
    elif isinstance(check, bool):
        parts.append(
            "The data are unlike those that the surrogate was trained on: its answer is an "
            "extrapolation."
            if check
            else "The data are like those that the surrogate was trained on."
        )
    elif check is not None:
        parts.append(f"Check of the data against those of training: {check}.")
    return " ".join(parts)


def _moves(found: Mapping[str, Any]) -> str:
    return (
        f"{found['particles']} of the draws were moved by Hamiltonian dynamics, which leaves draws "
        f"of the posterior what they are. The mean of {found['mean_shift_of']} drifted most, by "
        f"{said(found['mean_shift'], 2)} standard deviations, and the standard deviation of "
        f"{found['sd_shift_of']} by {said(100 * found['sd_shift'], 2)} %, on the unconstrained "
        "space. What so few draws show by chance is allowed for in the checks."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _against_nuts(case: Case) -> tuple[Text, Table, list[str]]:
    """Means and spreads beside those of a NUTS run."""
    posterior, nuts = (case.tree[g].to_dataset() for g in ("posterior", "nuts"))
    rows = []
    for name in sampled_sites(case):
        if name not in nuts.data_vars:
            continue
        own, exact = draws_by_element(posterior[name]), draws_by_element(nuts[name])
        spread = exact.std(axis=0)
        moving = spread > 0
        with np.errstate(all="ignore"):
            difference = (own.mean(axis=0) - exact.mean(axis=0)) / spread
            ratio = own.std(axis=0) / spread
        columns = (own.mean(axis=0), exact.mean(axis=0), difference, ratio)
        rows += [
            (label, *(float(c[i]) for c in columns))
            for i, label in enumerate(element_names(posterior[name]))
            if moving[i]
        ]
    rows.sort(key=lambda row: -max(abs(row[3]), abs(np.log(max(row[4], 1e-300)))))
    far = [row[0] for row in rows if _is_far(row)]
    if far:
        text = (
            f"Beside a short NUTS run, {len(far)} of {len(rows)} elements are off by more than "
            f"{FAR} standard deviations in the mean or a fifth in spread: {listed(far)}."
        )
    else:
        text = f"Beside a short NUTS run, all {len(rows)} elements agree in mean and spread."
    shown = rows[:_ROWS]
    table = Table(
        ("parameter", "mean", "mean by NUTS", "difference (sds)", "sd / sd by NUTS"),
        tuple(shown),
        "Differences of means in standard deviations of the NUTS draws, worst first.",
        len(shown) > _SEARCHED,
        tuple(i for i, row in enumerate(shown) if _is_far(row)),
    )
    return Text(text), table, far


def _is_far(row: tuple) -> bool:
    return abs(row[3]) > FAR or not 1 - FAR < row[4] < 1 / (1 - FAR)
