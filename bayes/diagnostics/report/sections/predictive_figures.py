"""Figures of what the model predicts beside what was observed, by the kind of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Figure
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.observations import Observed
from bayes.diagnostics.report.sections.wording import listed

__all__ = ["posterior_figure", "prior_figure"]

_LINES, _MOST_COUNTS = 40, 60


def posterior_figure(site: Observed) -> Figure:
    """Data beside replicates from the posterior.

    Parameters
    ----------
    site : Observed
        The site; its kind chooses the figure.

    Returns
    -------
    Figure
    """
    if site.kind == "binary":
        return _calibration(site)
    if site.kind == "categorical":
        return _frequencies(site)
    distinct = len(np.union1d(np.unique(site.values), np.unique(site.replicates)))
    if site.kind == "count" and distinct <= _MOST_COUNTS:
        return _rootogram(site)
    return _distribution(site)


def _tree(site: Observed, draws: int) -> Any:
    """Some replicates and the data as ArviZ takes them."""
    import arviz_base

    whole = site.kind != "continuous"
    replicates = _some(site.replicates, draws)[None]
    groups = {"posterior_predictive": replicates, "observed_data": site.values}
    return arviz_base.from_dict(
        {g: {site.name: v.astype(np.int64 if whole else float)} for g, v in groups.items()},
        dims={site.name: ["observation"]},
        sample_dims=["chain", "draw"],
    )


def _some(replicates: np.ndarray, most: int) -> np.ndarray:
    return replicates[np.linspace(0, len(replicates) - 1, min(most, len(replicates))).astype(int)]


def _distribution(site: Observed) -> Figure:
    """Densities of the data and of replicates."""
    import arviz_plots

    low, high = float(site.values.min()), float(site.values.max())
    lines = _some(site.replicates, _LINES)
    if site.kind == "count" or np.ptp(lines) > 3 * (high - low):
        # A density has no good bandwidth where tails are heavy, and counts have none.
        return _curves(site, COLOURS[0], "that the fitted model makes", _likeness(site))
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        collection = arviz_plots.plot_ppc_dist(
            _tree(site, _LINES),
            kind="kde",
            num_samples=len(lines),
            backend="matplotlib",
            visuals={
                "predictive_dist": {"color": COLOURS[0], "alpha": 0.4, "width": 0.8},
                "observed_dist": {"color": ink, "width": 1.8},
                "title": False,
            },
            stats={"predictive_dist": {"grid_len": 200}},
            figure_kwargs={"figsize": (6.4, 2.9), "figsize_units": "inches"},
        )
        figure = collection.viz["figure"].item()
        axes = figure.axes[0]
        axes.set_xlabel(site.name)
        _legend(plt, axes, {"observed": (ink, 1.8), "replicates": (COLOURS[0], 0.8)})
        caption = (
            f"Densities of {site.name}: the data (dark line) and {len(lines)} data sets that the "
            f"fitted model makes (thin lines). {_likeness(site)}"
        )
        return picture(figure, caption, f"Densities of {site.name} and of replicates of it.")


def _likeness(site: Observed) -> str:
    """Where the data's quantiles leave what is predicted of them."""
    probs = np.array((5, 25, 50, 75, 95))
    seen = np.percentile(site.values, probs)
    low, high = np.percentile(np.percentile(site.replicates, probs, axis=1), (0.5, 99.5), axis=1)
    outside = [f"{p} %" for p in probs[(seen < low) | (seen > high)]]
    text = "The dark line should look like one of the thin ones. "
    if outside:
        return (
            text + f"Here the data's {listed(outside)} quantiles are not where the model puts them."
        )
    return text + "Here the data's quantiles (5 to 95 %) are where the model puts them."


def _curves(site: Observed, colour: str, source: str, finding: str) -> Figure:
    """Cumulative distributions, which show any kind of data, with tails however heavy."""
    probs = np.linspace(0, 100, 101)
    lines = np.percentile(_some(site.replicates, _LINES), probs, axis=1).T
    low, high = _window(site)
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, axes = plt.subplots(figsize=(6.4, 2.9))
        for line in lines:
            axes.plot(line, probs / 100, color=colour, alpha=0.5, linewidth=0.8)
        axes.plot(np.percentile(site.values, probs), probs / 100, color=ink, linewidth=1.8)
        axes.set_xlim(low, high)
        axes.set_xlabel(site.name)
        axes.set_ylabel("share of observations below")
        _legend(plt, axes, {"observed": (ink, 1.8), "predicted": (colour, 0.8)})
        shares = [np.mean((x < low) | (x > high)) for x in (site.values, site.replicates)]
        caption = (
            f"Cumulative distributions of {site.name}: the data (dark line) and {len(lines)} data "
            f"sets {source} (thin lines). {finding} Outside the range shown are "
            f"{100 * shares[0]:.0f} % of the data and {100 * shares[1]:.0f} % of what is predicted."
        )
        summary = f"Cumulative distribution of {site.name} and of what the model predicts."
        return picture(figure, caption, summary)


def _window(site: Observed) -> tuple[float, float]:
    """The middle of data and predictions; all of the data where they have no far ends."""
    low, high = np.percentile(site.values, (1, 99))
    width = (high - low) or abs(high) or 1.0
    low = max(float(site.values.min()), low - width)
    high = min(float(site.values.max()), high + width)
    start, stop = np.percentile(site.replicates, (5, 95))
    low, high = min(low, float(start)), max(high, float(stop))
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _rootogram(site: Observed) -> Figure:
    """Frequencies of counts on a square root scale."""
    import arviz_plots

    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        collection = arviz_plots.plot_ppc_rootogram(
            _tree(site, len(site.replicates)),
            ci_prob=0.9,
            backend="matplotlib",
            visuals={
                "predictive_markers": {"color": COLOURS[0]},
                "credible_interval": {"color": COLOURS[0], "alpha": 0.5},
                "observed_markers": {"color": ink},
                "grid": False,
                "title": False,
                "xlabel": {"text": site.name, "color": ink},
                "ylabel": {"text": "frequency (square root scale)", "color": ink},
            },
            figure_kwargs={"figsize": (6.4, 2.9), "figsize_units": "inches"},
        )
        figure = collection.viz["figure"].item()
        _legend(plt, figure.axes[0], {"observed": (ink, 0.0), "predicted, 90 %": (COLOURS[0], 3.0)})
        outside, total = _outside(site)
        caption = (
            f"How often each value of {site.name} occurs: observed (dark markers) and predicted "
            "(bars: 90 % intervals). Markers should lie on their bars, but for one in ten. Here "
            f"{outside} of {total} do not."
        )
        return picture(figure, caption, f"Observed and predicted frequencies of {site.name}.")


def _frequencies(site: Observed) -> Figure:
    """Shares of categories with what is predicted of them.

    ArviZ's plots for categories show calibration, one panel each; frequencies are what a reader
    asks for first.
    """
    codes = np.union1d(np.unique(site.values), np.unique(site.replicates))
    seen = np.array([(site.values == code).mean() for code in codes])
    shares = np.stack([(site.replicates == code).mean(axis=1) for code in codes])
    low, middle, high = np.percentile(shares, (5, 50, 95), axis=1)
    places = np.arange(len(codes))
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, axes = plt.subplots(figsize=(6.4, 2.9))
        axes.bar(places, seen, width=0.7, color=ink, alpha=0.2, label="observed")
        axes.errorbar(
            places,
            middle,
            [middle - low, high - middle],
            fmt="o",
            color=COLOURS[0],
            elinewidth=2.5,
            markersize=4,
            label="predicted, 90 %",
        )
        axes.set_xticks(places[:: 1 + len(places) // 30])
        axes.set_xticklabels([f"{code:g}" for code in codes[:: 1 + len(places) // 30]])
        axes.set_xlabel(site.name)
        axes.set_ylabel("share")
        axes.legend()
        outside, total = _outside(site)
        caption = (
            f"Shares of the categories of {site.name}: observed (bars) and predicted (points with "
            "90 % intervals). Bars should end inside the intervals, but for one in ten. Here "
            f"{outside} of {total} do not."
        )
        return picture(figure, caption, f"Observed and predicted shares of {site.name}.")


def _outside(site: Observed) -> tuple[int, int]:
    """Values whose observed frequency is outside the central 90 % of the predicted ones."""
    codes = np.union1d(np.unique(site.values), np.unique(site.replicates))
    counts = np.stack([(site.replicates == code).sum(axis=1) for code in codes])
    low, high = np.percentile(counts, (5, 95), axis=1)
    seen = np.array([(site.values == code).sum() for code in codes])
    return int(((seen < low) | (seen > high)).sum()), len(codes)


def _calibration(site: Observed) -> Figure:
    """Shares of ones by predicted probability, monotone by pooling adjacent violators."""
    import arviz_plots

    chance = site.replicates.mean(axis=0)
    # Shares of few distinct probabilities, as without predictors, have no curve.
    if len(site.values) < 10 or np.ptp(chance) < 0.05:
        return _frequencies(site)
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        collection = arviz_plots.plot_ppc_pava(
            _tree(site, 200),
            ci_prob=0.9,
            backend="matplotlib",
            visuals={
                "reference_line": {"color": ink, "alpha": 0.6},
                "lines": {"color": COLOURS[0]},
                "credible_interval": {"color": COLOURS[0], "alpha": 0.25},
                "xlabel": {"text": "predicted probability of 1", "color": ink},
                "ylabel": {"text": "observed share of ones", "color": ink},
                "title": False,
            },
            figure_kwargs={"figsize": (4.4, 3.6), "figsize_units": "inches"},
        )
        figure = collection.viz["figure"].item()
        if len(site.values) > 1000:
            for artist in (*figure.axes[0].lines, *figure.axes[0].collections):
                artist.set_rasterized(True)
        caption = (
            f"Calibration of {site.name}: among observations of a predicted probability, the share "
            "of ones (line), with the central 90 % of what the model itself would give (band). "
            "The line should stay in the band. Here predicted probabilities reach from "
            f"{chance.min():.2f} to {chance.max():.2f}."
        )
        return picture(figure, caption, f"Observed shares of {site.name} by predicted probability.")


def _legend(plt: Any, axes: Any, entries: Mapping[str, tuple[str, float]]) -> None:
    """A legend of lines; of markers where the width is 0."""
    handles = [
        plt.Line2D([], [], color=colour, linewidth=width, marker="" if width else ".", label=label)
        for label, (colour, width) in entries.items()
    ]
    axes.legend(handles=handles)


def prior_figure(site: Observed) -> Figure:
    """Data beside replicates from the prior.

    Parameters
    ----------
    site : Observed
        The site; its kind chooses the figure.

    Returns
    -------
    Figure
    """
    if site.kind == "binary":
        return _prior_shares(site)
    finding = (
        "The dark line should lie among the thin ones and take up a good part of their range; as a "
        "steep step, it says that the prior allows far more than anybody would believe."
    )
    return _curves(site, COLOURS[1], "from the prior", finding)


def _prior_shares(site: Observed) -> Figure:
    shares = (site.replicates == 1).mean(axis=1)
    seen = float((site.values == 1).mean())
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, axes = plt.subplots(figsize=(6.4, 2.4))
        axes.hist(shares, np.linspace(0, 1, 31), color=COLOURS[1], alpha=0.5, label="prior")
        axes.axvline(seen, color=ink, linewidth=1.8, label="observed")
        axes.set_xlabel(f"share of ones in {site.name}")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.legend()
        caption = (
            f"Share of ones in {len(shares)} data sets from the prior, and in the data "
            f"({seen:.2f}). The prior should allow it, and not much that nobody would believe: "
            "mass at 0 and 1 says that the prior expects all outcomes to be the same."
        )
        return picture(figure, caption, f"Shares of ones in {site.name} under the prior.")
