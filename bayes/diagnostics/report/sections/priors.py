"""What the data changed: priors against posteriors."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Case, Figure, Section, Table, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.changes import (
    APART,
    LITTLE,
    UNLEARNED,
    WIDER,
    Change,
    site_changes,
)
from bayes.diagnostics.report.sections.elements import hyperparameters, sampled_sites
from bayes.diagnostics.report.sections.wording import (
    json_numbers,
    lacking,
    listed,
    missing_section,
)

__all__ = ["prior_posterior"]

NAME, TITLE = "prior-posterior", "Prior against posterior"
_SMALL, _ROWS, _PANELS, _SEARCHED = 500, 500, 12, 20


def prior_posterior(case: Case) -> Section | None:
    """How far the posterior is from the prior, and how much narrower.

    Parameters
    ----------
    case : Case
        Groups prior and posterior.

    Returns
    -------
    Section or None
        None where there is no group prior and no reason why.
    """
    if absent := lacking(case, "prior", "posterior"):
        return missing_section(case, absent, NAME, TITLE)
    prior, posterior = (case.tree[g].to_dataset() for g in ("prior", "posterior"))
    changes: list[Change] = []
    large = []
    for site in sampled_sites(case):
        if site not in prior.data_vars:
            continue
        if posterior[site][0, 0].size > _SMALL:
            large.append(site)
        else:
            changes += site_changes(prior[site], posterior[site])
    if not changes:
        return None
    first = set(hyperparameters(case))
    changes.sort(key=lambda c: (c.name.split("[")[0] not in first, c.contraction))
    text = _findings(changes)
    if large:
        text += f" Sites of more than {_SMALL} elements are left out: {listed(large)}."
    blocks = (Text(text), _figure(_chosen(changes, first)), _table(changes, len(changes[0].before)))
    return Section(NAME, TITLE, blocks, data=_data(changes))


def _findings(changes: list[Change]) -> str:
    little, wider, far = (
        [c.name for c in changes if c.note == note] for note in (UNLEARNED, WIDER, APART)
    )
    parts = []
    if far:
        parts.append(
            f"The posterior sits in the tail of the prior of {listed(far)}: prior and data "
            "disagree, or the prior is on another scale than was meant."
        )
    if wider:
        parts.append(
            f"The posterior of {listed(wider)} is wider than the prior, which agreement between "
            "prior and data does not do."
        )
    if little:
        parts.append(
            f"The data say little about {listed(little)} (contraction below {LITTLE:g}): what is "
            "reported of them is mostly the prior."
        )
    if not parts:
        parts.append(
            "The data narrow every parameter shown, and no posterior sits in its prior's tail."
        )
    return " ".join(parts)


def _chosen(changes: list[Change], first: set[str]) -> list[Change]:
    """Hyperparameters, then the least and the most contracted, for as many panels as there are."""
    if len(changes) <= _PANELS:
        return changes
    top = [c for c in changes if c.name.split("[")[0] in first][: _PANELS - 4]
    rest = sorted((c for c in changes if c not in top), key=lambda c: c.contraction)
    half = (_PANELS - len(top)) // 2
    return [*top, *rest[:half], *rest[len(rest) - (_PANELS - len(top) - half) :]]


def _figure(chosen: list[Change]) -> Figure:
    # ArviZ's plot shows all of a prior, beside whose tails nothing is left to be seen.
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    width = 1.8 if columns > 2 else 2.8
    with drawing() as plt:
        figure, grid = plt.subplots(
            rows, columns, figsize=(width * columns, 1.55 * rows + 0.3), squeeze=False
        )
        for axes in grid.ravel()[len(chosen) :]:
            axes.set_axis_off()
        for axes, change in zip(grid.ravel(), chosen, strict=False):
            _panel(axes, change)
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.0))
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / (1.55 * rows + 0.3)))
        caption = (
            "Densities of prior and posterior, each scaled to the same height. A posterior much "
            "narrower than its prior was learned from the data; one that lies on its prior was "
            "not. Where a prior is much wider than its posterior, only the part around the "
            f"posterior is shown. Shown here: {_extremes(chosen)}."
        )
        names = listed([c.name for c in chosen], _PANELS)
        return picture(figure, caption, f"Prior and posterior densities of {names}.")


def _extremes(chosen: list[Change]) -> str:
    least, most = (f(chosen, key=lambda c: c.contraction) for f in (min, max))
    if least is most:
        return f"{least.name}, with contraction {_shown(least.contraction)}"
    return (
        f"contractions from {_shown(least.contraction)} ({least.name}) to "
        f"{_shown(most.contraction)} ({most.name})"
    )


def _shown(contraction: float) -> str:
    """With more digits the nearer it is to 1."""
    return f"{contraction:.{2 if contraction < 0.95 else 3 if contraction < 0.999 else 5}f}"


def _panel(axes: Any, change: Change) -> None:
    low, high = _window(change)
    for draws, label, style in (
        (change.before, "prior", {"color": COLOURS[1], "linestyle": "--"}),
        (change.after, "posterior", {"color": COLOURS[0]}),
    ):
        x, density = _density(draws[(draws >= low) & (draws <= high)])
        axes.plot(x, density, label=label, **style)
        if label == "posterior":
            axes.fill_between(x, density, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.08)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(labelsize=7)
    name = change.name if len(change.name) < 26 else change.name[:24] + "…"
    axes.set_title(f"{name}\ncontraction {_shown(change.contraction)}", fontsize=8)


def _window(change: Change) -> tuple[float, float]:
    """The posterior, and of the prior's middle what is not too far from it."""
    low, high = np.percentile(change.after, (0.1, 99.9))
    width = max(high - low, 1e-9 * max(abs(low), abs(high), 1e-300))
    start, stop = np.percentile(change.before, (1, 99))
    low = min(low - 0.15 * width, max(start, low - 2.5 * width))
    high = max(high + 0.15 * width, min(stop, high + 2.5 * width))
    ends = np.concatenate([change.before, change.after])
    return max(low, ends.min()), min(high, ends.max())


def _density(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A density scaled to a highest value of 1; nothing where there are too few draws."""
    from arviz_stats.base import array_stats

    if len(draws) < 20 or np.ptp(draws) == 0:
        return np.empty(0), np.empty(0)
    x, density, _ = array_stats.kde(draws, grid_len=200)
    return x[::2], (density / density.max())[::2]


def _table(changes: list[Change], draws: int) -> Table:
    shown = changes[:_ROWS]
    rows = tuple(
        (
            c.name,
            c.centres[0],
            c.spreads[0],
            c.centres[1],
            c.spreads[1],
            c.contraction,
            c.shift,
            c.note,
        )
        for c in shown
    )
    error = np.sqrt(2 / draws)
    caption = (
        "Contraction is 1 − posterior variance / prior variance; shift is the change of the mean "
        f"in prior standard deviations. From {draws} prior draws, whose variance is known to "
        f"about {100 * error:.0f} %."
    )
    robust = list(dict.fromkeys(c.name.split("[")[0] for c in changes if c.robust))
    if robust:
        caption += (
            f" The prior of {listed(robust)} has no variance to speak of (heavy tails): medians "
            "and interquartile ranges / 1.349 stand for means and standard deviations."
        )
    if len(changes) > _ROWS:
        caption += f" {_ROWS} of {len(changes)} elements, the least contracted."
    columns = (
        "parameter",
        "prior mean",
        "prior sd",
        "posterior mean",
        "posterior sd",
        "contraction",
        "shift",
        "note",
    )
    flagged = tuple(i for i, c in enumerate(shown) if c.note)
    return Table(columns, rows, caption, len(shown) > _SEARCHED, flagged)


def _data(changes: list[Change]) -> dict[str, Any]:
    return {
        "elements": {
            c.name: {
                **json_numbers({"contraction": c.contraction, "shift": c.shift, "tail": c.tail}),
                "robust": c.robust,
                "note": c.note,
            }
            for c in changes
        }
    }
