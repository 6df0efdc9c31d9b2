"""Leave-one-out: how well each observation is predicted from the others."""

from __future__ import annotations

import numpy as np

from bayes.diagnostics.report.contents import Block, Case, Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.elements import card_sites, sampled_sites
from bayes.diagnostics.report.sections.left_out import LeftOut, leave_out, loo_pit
from bayes.diagnostics.report.sections.pit import evenly, pit_figure
from bayes.diagnostics.report.sections.statistics import elements_of
from bayes.diagnostics.report.sections.wording import (
    json_number,
    lacking,
    listed,
    missing_section,
)
from bayes.errors import DataError

__all__ = ["leave_one_out"]

NAME, TITLE = "leave-one-out", "Leave-one-out prediction"
_MOST_SITES, _WORST, _MOST_ROWS, _SEARCHED, _MOST_DOTS = 4, 20, 500, 50, 2500


def leave_one_out(case: Case) -> Section | None:
    """Predictive accuracy by PSIS-LOO, observation by observation.

    Parameters
    ----------
    case : Case
        Group log_likelihood; with observed_data and posterior_predictive, also LOO-PIT.

    Returns
    -------
    Section or None
        None where there is no log likelihood and no reason why.

    References
    ----------
    Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC; Vehtari et al. (2024), Pareto smoothed importance sampling.
    """
    if absent := lacking(case, "log_likelihood"):
        return missing_section(case, absent, NAME, TITLE)
    discrete = [
        name
        for name, site in card_sites(case).items()
        if site.get("kind") == "discrete" and name in case.tree["posterior"].data_vars
    ]
    if discrete:
        reason = (
            f"the log likelihood at draws of discrete sites ({listed(discrete)}) has few values, "
            "whose tail no Pareto distribution fits: sum these sites out"
        )
        return Section(NAME, TITLE, missing=reason)
    likelihood = case.tree["log_likelihood"].to_dataset()
    efficiency = _efficiency(case)
    blocks: list[Block] = []
    data, failed = {}, []
    for name in list(map(str, likelihood.data_vars))[:_MOST_SITES]:
        try:
            found = leave_out(likelihood[name], efficiency)
        except DataError as error:
            failed.append(str(error).removeprefix("loo: "))
            continue
        more, entry = _described(case, found)
        blocks += more
        data[name] = entry
    return Section(NAME, TITLE, tuple(blocks), "; ".join(failed), {"sites": data})


def _efficiency(case: Case) -> float:
    """Effective sample size by number of draws, on average over the elements.

    ArviZ takes the same average, one element after the other.
    """
    elements = elements_of(case)
    sizes = case.tree["posterior"].sizes
    known = elements.mean_error > 0
    resampled = ((case.card.get("method") or {}).get("info") or {}).get("importance")
    if resampled:
        return float(resampled["ess"]) / (sizes["chain"] * sizes["draw"])
    if sizes["chain"] == 1 or not known.any():
        return 1.0
    effective = (elements.sd[known] / elements.mean_error[known]) ** 2
    return float(effective.mean()) / (sizes["chain"] * sizes["draw"])


def _described(case: Case, found: LeftOut) -> tuple[list[Block], dict]:
    """What is said and shown of one site, and its numbers."""
    posterior = case.tree["posterior"].to_dataset()
    parameters = sum(posterior[name][0, 0].size for name in sampled_sites(case))
    high, count = found.high, len(found.names)
    rows = (
        ("site", found.site),
        ("expected log predictive density", f"{found.elpd:.1f} ± {found.se:.1f} (standard error)"),
        ("effective number of parameters", f"{found.p:.1f} of {parameters}"),
        ("observations", _counted(found)),
        (f"k-hat above {found.threshold:.2f}", str(len(high))),
    )
    blocks: list[Block] = [
        Text(_verdict(found, parameters)),
        Facts(rows),
        _khat_figure(found),
        _table(found),
    ]
    entry = {
        "elpd": json_number(found.elpd),
        "se": json_number(found.se),
        "p": json_number(found.p),
        "parameters": parameters,
        "observations": count,
        "threshold": json_number(found.threshold),
        "high": [found.names[i] for i in high],
        "worst_khat": json_number(found.khat.max()),
    }
    pit = loo_pit(case, found)
    if pit is not None:
        figure, p, finding = pit_figure(pit, found.site, loo=True)
        blocks.insert(3, figure)
        if finding:
            blocks.insert(1, Text(f"Predictions of {found.site} are not calibrated: {finding}."))
        entry["pit_p"] = json_number(p)
    return blocks, entry


def _counted(found: LeftOut) -> str:
    count = len(found.names)
    return str(count) if count == found.total else f"{count} of {found.total}, evenly chosen"


def _verdict(found: LeftOut, parameters: int) -> str:
    """What k-hat and the effective number of parameters say, and what to do."""
    high, count = len(found.high), len(found.names)
    if not high:
        text = (
            f"Every observation of {found.site} can be left out by reweighting: all k-hat are "
            f"below {found.threshold:.2f}."
        )
    else:
        names = listed([found.names[i] for i in found.high])
        text = (
            f"k-hat is above {found.threshold:.2f} for {high} of {count} observations of "
            f"{found.site} ({names}): the posterior changes so much without one of them that "
            "reweighting its draws fails, and the sum below may be too good. Look at these "
            "observations first: they may be wrong, or have another cause than the rest. For the "
            "number itself, fit again without each of them or use moment matching; with many, "
            "K-fold cross-validation. A likelihood with heavier tails (Student t, negative "
            "binomial) is moved less."
        )
    # A right model's value lies about the number of parameters, above as often as below.
    if found.p > 1.5 * parameters + 1:
        text += (
            f" The effective number of parameters, {found.p:.1f}, is well above the {parameters} "
            "that there are: the model is badly misspecified, as a rule its predictive "
            "distribution is too narrow for these data."
        )
    elif high and parameters > count / 5:
        text += (
            f" With {parameters} parameters for {count} observations, single observations "
            "determine some parameters nearly alone, and their prior says little: that alone makes "
            "k-hat high."
        )
    elif high:
        text += (
            f" With {parameters} parameters for {count} observations the model is not too "
            "flexible: these are outliers to it, or its likelihood has too light tails."
        )
    return text


def _khat_figure(found: LeftOut) -> Figure:
    # ArviZ's plot writes shares beside the points in the colours of its own theme, and took longer.
    high = found.high
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, axes = plt.subplots(figsize=(6.4, 2.6))
        places = np.arange(len(found.khat))
        below = np.setdiff1d(places, high)
        below = below[evenly(len(below), _MOST_DOTS)]
        small = 2.5 if len(places) > 100 else 4
        for chosen, colour, size in ((below, COLOURS[0], small), (high, COLOURS[1], 4)):
            axes.plot(
                chosen,
                found.khat[chosen],
                linestyle="",
                marker="o",
                markersize=size,
                markeredgewidth=0,
                color=colour,
                alpha=0.8,
                rasterized=len(chosen) > 500,
            )
        axes.axhline(found.threshold, color=ink, linestyle="--", linewidth=0.9)
        for place in high[:5]:
            label = found.names[place].removeprefix(found.site)
            axes.annotate(
                label,
                (place, found.khat[place]),
                (3, 3),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_ylim(min(found.khat.min(), 0) - 0.05, max(found.khat.max(), found.threshold) + 0.1)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(f"observation of {found.site}")
        axes.set_ylabel("Pareto k-hat")
        worst = int(found.khat.argmax())
        caption = (
            "Pareto k-hat of every observation: how far the posterior would move without it. Above "
            f"the dashed line ({found.threshold:.2f} for this number of draws) its leave-one-out "
            f"value is not to be relied on. Here the largest is {found.khat[worst]:.2f}, of "
            f"{found.names[worst]}."
        )
        return picture(figure, caption, f"Pareto k-hat of the observations of {found.site}.")


def _table(found: LeftOut) -> Table:
    shown = max(_WORST, min(len(found.high), _MOST_ROWS))
    order = np.argsort(-found.khat, kind="stable")[:shown]
    columns = ("observation", "k-hat", "log predictive density")
    rows = tuple((found.names[i], float(found.khat[i]), float(found.elpd_i[i])) for i in order)
    flagged = tuple(range(min(len(found.high), len(rows))))
    count = len(found.names)
    caption = (
        f"All {count} observations of {found.site}, by k-hat."
        if len(rows) == count
        else f"The {len(rows)} of {count} observations of {found.site} with the largest k-hat."
    )
    return Table(columns, rows, caption, len(rows) > _SEARCHED, flagged)
