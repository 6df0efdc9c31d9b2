"""What a learned surrogate said of these data, and how right it is on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Block, Case, Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.wording import json_number, listed, said

__all__ = ["surrogate"]

NAME, TITLE = "surrogate", "Surrogate"
_LEVEL = 0.01
_NAMED, _SEARCHED = 4, 20
"""Lines of ranks that are named in the figure, and rows from which on a table is searchable."""
_ROUTES = {
    "raw": "the draws are the network's own, and nothing was corrected",
    "psis": "draws of the network's mixture were resampled by weights from the exact density",
    "adapted": "the network's mixture was adapted to the exact density, and draws of it were "
    "resampled by weights",
    "nuts": "weights could not correct the network's draws, so that NUTS went on from them",
}
_CHECKS = {
    "sbc": ("Ranks (SBC)", "largest departure from uniform ranks, as a share of what is allowed"),
    "coverage": ("Coverage", "largest error of the coverage of 90 % intervals"),
    "tarp": ("Joint coverage (TARP)", "largest error of the coverage of joint regions"),
    "recovery": ("Recovery", "gain over the prior, in standard errors"),
}


def surrogate(case: Case) -> Section | None:
    """The route from the network's answer to the draws, and the network's global checks.

    Parameters
    ----------
    case : Case
        Of a surrogate's fit, whose info has ``surrogate``: a mapping with ``route``, and as far as
        they are known ``distance``, ``distance_limit``, ``out_of_range``, ``notes`` and ``checks``.

    Returns
    -------
    Section or None
        None for other methods.
    """
    info = case.card.get("method", {}).get("info") or {}
    known = info.get("surrogate")
    if not isinstance(known, Mapping):
        return None
    given = [str(n) for key in ("notes", "out_of_range") for n in known.get(key) or ()]
    notes = list(dict.fromkeys(given))
    blocks: list[Block] = [Text(_route(info, known)), Facts(_facts(info, known))]
    blocks += [Text(f"{note[:1].upper()}{note[1:].rstrip('.')}.") for note in notes]
    data: dict[str, Any] = {"route": known.get("route"), "notes": notes}
    for source, names in (
        (known, ("distance", "distance_limit")),
        (info, ("log_evidence", "log_evidence_error")),
    ):
        data |= {n: json_number(source[n]) for n in names if source.get(n) is not None}
    missing = ""
    checks = known.get("checks")
    if isinstance(checks, Mapping):
        blocks += [_verdict(checks), _checks(checks), _elements(checks), _figure(checks)]
        data["checks"] = {c["name"]: c["passed"] for c in checks["checks"]}
    else:
        missing = "global checks: the surrogate was trained without them"
    return Section(NAME, TITLE, tuple(blocks), missing, data)


# ---------------------------------------------------------------------- these data


def _route(info: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What each rung found, in the order in which they were climbed."""
    route = str(known.get("route", info.get("route", "")))
    went = {**(info.get("approximation") or {}), **info}
    parts = [f"Route {route}: {_ROUTES[route]}." if route in _ROUTES else f"Route {route}."]
    if went.get("scores_matched"):
        parts.append(
            "Weights of the network's draws were hopeless, and a normal was fitted to the scores "
            "of the exact density instead."
        )
    rounds = int(went.get("rounds") or 0)
    if rounds and route != "raw":
        parts.append(f"The mixture was moved to weighted moments {_times(rounds)}.")
    ratios = info.get("importance")
    if isinstance(ratios, Mapping):
        parts.append(
            f"In the end k-hat was {float(ratios['khat']):.2f}, and {ratios['candidates']} "
            f"candidates were worth {said(float(round(ratios['ess'])))} independent draws."
        )
    return " ".join(parts)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _facts(info: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = [("Route", str(known.get("route", "")))]
    if known.get("reason"):
        rows.append(("Why this one", str(known["reason"])))
    distance, limit = known.get("distance"), known.get("distance_limit")
    if distance is not None:
        words = said(float(distance))
        if limit is not None:
            # A distance that is no number is as far as can be.
            near = float(distance) <= float(limit)
            like = "like those of training" if near else "unlike those of training"
            words += f" (limit {said(float(limit))}): the data are {like}"
        rows.append(("Distance from the training data", words))
    if info.get("log_evidence") is not None:
        error = info.get("log_evidence_error")
        about = f" ± {said(float(error), 2)}" if error is not None else ""
        rows.append(("Log evidence", f"{float(info['log_evidence']):.3f}{about}"))
    components = info.get("components")
    if components is not None:
        rows.append(("Components in the end", str(components)))
    return tuple(rows)


# --------------------------------------------------------------- simulated data sets


def _quantities(checks: Mapping[str, Any]) -> list[str]:
    names = [str(name) for name in checks["names"]]
    return names + ["log likelihood"] * (len(checks["rank_counts"]) - len(names))


def _verdict(checks: Mapping[str, Any]) -> Text:
    failed = [_CHECKS.get(c["name"], (c["name"],))[0] for c in checks["checks"] if not c["passed"]]
    text = (
        f"After training the network was tried on {checks['simulations']} data sets that the "
        "program drew, with known truths. "
    )
    gain, error = checks["gain"], checks["gain_error"]
    if failed:
        text += (
            f"It failed {listed(failed)}: on average its own draws are not to be trusted. "
            "Corrected draws are judged by their own weights, or as chains."
        )
    else:
        text += "On average its posteriors are right, as far as such a check can see."
    if gain is not None and error is not None:
        text += f" They tell {said(gain)} ± {said(error, 2)} nats more than the prior."
    return Text(text)


def _checks(checks: Mapping[str, Any]) -> Table:
    rows = []
    for check in checks["checks"]:
        label, what = _CHECKS.get(check["name"], (str(check["name"]), ""))
        advice = str(check["advice"])
        words = f"{what[:1].upper()}{what[1:]}." + (
            f" {advice[:1].upper()}{advice[1:]}." if advice else ""
        )
        relation = "above" if check["name"] == "recovery" else "at most"
        value = "" if check["value"] is None else said(float(check["value"]))
        wanted = f"{relation} {said(float(check['threshold']))}"
        rows.append((label, value, wanted, "passed" if check["passed"] else "failed", words))
    caption = (
        "Thresholds are a tolerance and Monte Carlo error, so that an exact posterior fails with "
        "a probability of less than 1 %, all checks together."
    )
    flagged = tuple(i for i, check in enumerate(checks["checks"]) if not check["passed"])
    columns = ("check", "value", "threshold", "result", "meaning")
    return Table(columns, tuple(rows), caption, flagged=flagged)


def _elements(checks: Mapping[str, Any]) -> Table:
    """Numbers by element; of the log likelihood there are ranks only."""
    ranking, elements = checks["ranking"], checks["elements"]
    names = _quantities(checks)

    def column(values: Sequence[float | None]) -> list[float]:
        found = [np.nan if v is None else float(v) for v in values]
        return found + [np.nan] * (len(names) - len(found))

    columns = {
        "p (SBC)": column(ranking["p_adjusted"]),
        "shift": column(ranking["shift"]),
        "narrow by": list(np.exp(column(ranking["spread"]))),
        "in 50 %": column(elements["50%"]),
        "in 90 %": column(elements["90%"]),
        "z sd": column(elements["z_sd"]),
        "contraction": column(elements["contraction"]),
        "corr.": column(elements["correlation"]),
    }
    rows = tuple((n, *(float(c[i]) for c in columns.values())) for i, n in enumerate(names))
    caption = (
        "By unconstrained element. P values of uniform ranks are adjusted for their number, and "
        "small where the network is merely not perfect. Shift, in sds, is above zero where "
        "posteriors are too low; narrow by is a factor, 1 where the width is right (large ones "
        "are understated); then come the shares of truths in central intervals, the sd of z "
        "scores (1 if right), the median contraction from prior to posterior, and the correlation "
        "of posterior mean and truth."
    )
    return Table(("element", *columns), rows, caption, len(rows) > _SEARCHED)


def _figure(checks: Mapping[str, Any]) -> Figure:
    """Expected coverage of joint regions, and distribution functions of ranks less uniform."""
    from bayes.calibration.uniformity import ecdf_bands

    n, names = int(checks["simulations"]), _quantities(checks)
    credibility = np.asarray(checks["tarp_counts"], float)
    ranks = np.asarray(checks["rank_counts"], float)
    bins = len(credibility)
    steps = np.arange(bins + 1) / bins
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.2))
        position, lower, upper = ecdf_bands(n, bins - 1, _LEVEL)
        left.fill_between(position, lower, upper, color=ink, alpha=0.15, linewidth=0)
        left.plot([0, 1], [0, 1], color=ink, linestyle="--", linewidth=0.8)
        left.plot(steps, np.append(0.0, np.cumsum(credibility) / n), color=COLOURS[0])
        left.set_xlabel("credibility of joint regions")
        left.set_ylabel("share that hold the truth")
        left.set_aspect("equal")
        position, lower, upper = ecdf_bands(n, bins - 1, _LEVEL / len(names))
        right.fill_between(
            position, lower - position, upper - position, color=ink, alpha=0.15, linewidth=0
        )
        right.axhline(0, color=ink, linestyle="--", linewidth=0.8)
        away = np.cumsum(ranks, axis=1)[:, :-1] / n - position
        outside = (away < lower - position) | (away > upper - position)
        worst = [int(i) for i in np.argsort(-np.abs(away).max(axis=1))]
        shown = worst[:_NAMED]
        for i in reversed(worst[_NAMED:]):
            right.plot(position, away[i], color=ink, alpha=0.3, linewidth=0.7)
        for place, i in enumerate(shown):
            right.plot(position, away[i], color=COLOURS[place], label=names[i])
        reach = max(float(np.abs(away).max()), float((upper - position).max()))
        # Room above the lines for the legend.
        right.set_ylim(-1.15 * reach, 1.8 * reach)
        right.legend(ncols=2, loc="upper center")
        right.set_xlabel("share of draws below the truth")
        right.set_ylabel("share of simulations, less uniform")
        figure.tight_layout()
        left_out = [names[i] for i in worst if outside[i].any()]
        finding = (
            f"Here {listed(left_out)} {'leaves' if len(left_out) == 1 else 'leave'} the band."
            if left_out
            else "Here none leaves the band."
        )
        caption = (
            "Left: how often regions of all elements together hold the truth, against how often "
            "they should (TARP). Right: distribution functions of the truths' ranks, less uniform, "
            "the furthest named. Exact posteriors stay inside each grey band, everywhere and "
            f"together, in 99 % of all cases. {finding} A network never is exact: how far a line "
            "is from zero counts. One that falls through the middle means that posteriors are too "
            "narrow, one that rises, too wide, and one below zero everywhere, too low."
        )
        summary = f"Expected coverage against credibility, and ranks of {listed(names)}."
        return picture(figure, caption, summary)
