"""What the model predicts beside what was observed, before and after the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Block, Case, Section, Table, Text
from bayes.diagnostics.report.sections.observations import Observed, observed_sites, predictive_p
from bayes.diagnostics.report.sections.pit import pit_figure, plain_pit
from bayes.diagnostics.report.sections.predictive_figures import posterior_figure, prior_figure
from bayes.diagnostics.report.sections.wording import (
    json_numbers,
    lacking,
    listed,
    missing_section,
    said,
)

__all__ = ["posterior_predictive", "prior_predictive"]

PRIOR_NAME, PRIOR_TITLE = "prior-predictive", "Prior predictive check"
NAME, TITLE = "posterior-predictive", "Posterior predictive check"
EXTREME, INSIDE, WIDE, ALIKE = 0.01, 0.8, 50.0, 0.03
NOTHING = "no site has observations and at least 20 finite replicates"
_MOST_SITES, _MOST_CATEGORIES = 4, 10
_QUANTILES = ("low", "median", "high")

Statistic = Callable[[np.ndarray], np.ndarray]


# --------------------------------------------------------------------- posterior


def posterior_predictive(case: Case) -> Section | None:
    """Replicates from the posterior beside the data, by the kind of data.

    Parameters
    ----------
    case : Case
        Groups posterior_predictive and observed_data.

    Returns
    -------
    Section or None
        None where there is nothing observed.
    """
    if absent := lacking(case, "posterior_predictive", "observed_data"):
        return missing_section(case, absent, NAME, TITLE)
    sites = observed_sites(case, "posterior_predictive")
    if not sites:
        return Section(NAME, TITLE, missing=NOTHING)
    blocks: list[Block] = []
    rows, found = [], {}
    for site in sites:
        statistics = _statistics(site)
        found[site.name] = {
            "kind": site.kind,
            "statistics": {name: json_numbers(values) for name, values in statistics.items()},
        }
        rows += [(site.name, name, *values.values()) for name, values in statistics.items()]
    blocks.append(Text(_verdict(sites, found)))
    for site in sites[:_MOST_SITES]:
        blocks.append(posterior_figure(site))
        # Where there are log likelihoods, the section on leave-one-out has the better version.
        if site.kind == "continuous" and "log_likelihood" not in case.tree.children:
            pit = plain_pit(site.values, site.replicates)
            figure, _, finding = pit_figure(pit, site.name, loo=False)
            blocks.append(figure)
            if finding:
                blocks.append(Text(f"Predictions of {site.name} are not calibrated: {finding}."))
    blocks.append(_statistics_table(rows, len(sites[0].replicates)))
    return Section(NAME, TITLE, tuple(blocks), data={"sites": found})


def _statistics(site: Observed) -> dict[str, dict[str, float]]:
    """Observed statistics, what is predicted of them, and their predictive p-values."""
    found = {}
    for name, statistic in _chosen_statistics(site).items():
        seen = float(statistic(site.values[None])[0])
        predicted = statistic(site.replicates)
        low, middle, high = np.percentile(predicted, (5, 50, 95))
        found[name] = {
            "observed": seen,
            "predicted": float(middle),
            "low": float(low),
            "high": float(high),
            "p": predictive_p(seen, predicted),
        }
    return found


def _chosen_statistics(site: Observed) -> Mapping[str, Statistic]:
    if site.kind == "binary":
        return {"share of ones": lambda x: (x == 1).mean(axis=1)}
    if site.kind == "categorical":
        codes = np.union1d(np.unique(site.values), np.unique(site.replicates))
        return {f"share of {code:g}": _share_of(float(code)) for code in codes[:_MOST_CATEGORIES]}
    chosen: dict[str, Statistic] = {
        "mean": lambda x: x.mean(axis=1),
        "sd": lambda x: x.std(axis=1),
        "min": lambda x: x.min(axis=1),
        "max": lambda x: x.max(axis=1),
    }
    if site.kind == "count":
        chosen["share of zeros"] = _share_of(0.0)
    return chosen if site.values.size > 1 else {"value": lambda x: x[:, 0]}


def _share_of(code: float) -> Statistic:
    return lambda x: (x == code).mean(axis=1)


def _verdict(sites: list[Observed], found: Mapping[str, Any]) -> str:
    """Which statistics the model does not reproduce, and how many data are missing."""
    odd = [
        f"{name} of {site} ({said(s['observed'])} observed, {said(s['low'])} to {said(s['high'])} "
        "predicted)"
        for site, entry in found.items()
        for name, s in entry["statistics"].items()
        if _is_extreme(s["p"])
    ]
    if odd:
        text = (
            f"The fitted model does not reproduce the {listed(odd)}. Look at what the figures show "
            "there, and extend the model by what it lacks (another spread, heavier tails, excess "
            "zeros, a missing predictor)."
        )
    else:
        text = "The fitted model reproduces every statistic below."
    left_out = [f"{s.left_out} of {s.name}" for s in sites if s.left_out]
    if left_out:
        text += f" Left out as missing or masked: {listed(left_out)}."
    if len(sites) > _MOST_SITES:
        text += f" Figures of the first {_MOST_SITES} of {len(sites)} observed sites."
    return text


def _is_extreme(p: float) -> bool:
    return min(p, 1 - p) < EXTREME


def _statistics_table(rows: list[tuple], draws: int) -> Table:
    caption = (
        f"Statistics of the data beside those of {draws} replicates: median and central 90 % "
        "interval. p is the share of replicates whose statistic is larger, ties by half: below "
        f"{EXTREME} or above {1 - EXTREME:g}, the model does not reproduce it. The data were used "
        "for the fit, so p is nearer 0.5 than it would be for new data."
    )
    columns = ("site", "statistic", "observed", "predicted", "5 %", "95 %", "p")
    flagged = tuple(i for i, row in enumerate(rows) if _is_extreme(row[-1]))
    return Table(columns, tuple(rows), caption, len(rows) > 20, flagged)


# ------------------------------------------------------------------------- prior


def prior_predictive(case: Case) -> Section | None:
    """Whether the prior puts mass where the data are, and how far beyond.

    Parameters
    ----------
    case : Case
        Groups prior_predictive and observed_data.

    Returns
    -------
    Section or None
        None where there is nothing observed.
    """
    if absent := lacking(case, "prior_predictive", "observed_data"):
        return missing_section(case, absent, PRIOR_NAME, PRIOR_TITLE)
    sites = observed_sites(case, "prior_predictive")
    if not sites:
        return Section(PRIOR_NAME, PRIOR_TITLE, missing=NOTHING)
    found = {site.name: _ranges(site) for site in sites}
    blocks = [
        Text(" ".join(_prior_verdict(site, found[site.name]) for site in sites)),
        prior_figure(sites[0]),
        _ranges_table(found, len(sites[0].replicates)),
    ]
    return Section(
        PRIOR_NAME,
        PRIOR_TITLE,
        tuple(blocks),
        data={"sites": {name: json_numbers(ranges) for name, ranges in found.items()}},
    )


def _ranges(site: Observed) -> dict[str, float]:
    """Quantiles of data and predictions, and how they lie to each other.

    Of binary data, those of the share of ones.
    """
    values, replicates = site.values, site.replicates
    if site.kind == "binary":
        values, replicates = values.mean(keepdims=True), replicates.mean(axis=1, keepdims=True)
    low, high = np.percentile(replicates, (2.5, 97.5), axis=0)
    seen = np.percentile(values, (2.5, 50, 97.5))
    predicted = np.percentile(replicates, (2.5, 50, 97.5))
    width = seen[2] - seen[0]
    return {
        "observed_low": float(seen[0]),
        "observed_median": float(seen[1]),
        "observed_high": float(seen[2]),
        "predicted_low": float(predicted[0]),
        "predicted_median": float(predicted[1]),
        "predicted_high": float(predicted[2]),
        "inside": float(((values >= low) & (values <= high)).mean()),
        "width_ratio": float((predicted[2] - predicted[0]) / width) if width else float("nan"),
    }


def _prior_verdict(site: Observed, ranges: Mapping[str, float]) -> str:
    inside, ratio, name = ranges["inside"], ranges["width_ratio"], site.name
    if site.kind == "binary":
        share = site.replicates.mean(axis=1)
        alike = float(((share < ALIKE) | (share > 1 - ALIKE)).mean())
        if inside and alike < 0.5:
            return f"The prior allows the share of ones that was observed in {name}."
        if not inside:
            return f"The prior puts little mass where the share of ones in {name} was observed."
        return (
            f"In {100 * alike:.0f} % of data sets from the prior, nearly all of {name} are the "
            "same: coefficients of such a size say that outcomes are certain beforehand. Narrow "
            "their priors."
        )
    if inside < INSIDE:
        return (
            f"The prior puts little mass where {name} was observed: only {100 * inside:.0f} % of "
            "the observations are inside the central 95 % of what it predicts for them. Look at "
            "its scales and at the units of the data."
        )
    if ratio > WIDE:
        return (
            f"The prior allows {name} a range {said(ratio, 2)} times that of the data: it says "
            "nearly nothing about their scale. Narrower priors would fit faster and more safely."
        )
    return f"The prior puts mass where {name} was observed, and not on far other scales."


def _ranges_table(found: Mapping[str, Mapping[str, float]], draws: int) -> Table:
    columns = ("site", "of", "2.5 %", "median", "97.5 %", "observations inside")
    rows = []
    for name, r in found.items():
        rows.append((name, "observed", *(r[f"observed_{q}"] for q in _QUANTILES), None))
        predicted = (r[f"predicted_{q}"] for q in _QUANTILES)
        rows.append((name, "prior predictive", *predicted, f"{100 * r['inside']:.0f} %"))
    caption = (
        f"Range of the data and of {draws} data sets from the prior (of binary data, of the share "
        "of ones), and how many observations are inside the central 95 % of the predictions."
    )
    flagged = tuple(2 * i + 1 for i, r in enumerate(found.values()) if r["inside"] < INSIDE)
    return Table(columns, tuple(rows), caption, flagged=flagged)
