"""Where transitions diverged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Case, Facts, Figure, Section, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.statistics import (
    draws_at,
    elements_of,
    parts_of,
    statistic,
)
from bayes.diagnostics.report.sections.wording import json_number, listed, said

__all__ = ["divergences"]

_PAIRS, _POINTS, _MARKED = 3, 800, 300
_WIDE = 50.0
"""An element is looked at on a log scale where its draws are positive and span this factor."""
_PRIOR_DRAWS = 5.0
"""Weight, in draws, of the spread of all draws in that of the divergent ones: few of them are close
together by chance."""
_EVIDENCE = 12.0
"""Log likelihood ratio from which a place is named: it is the best of many elements."""


@dataclasses.dataclass(frozen=True)
class Located:
    """An element at which divergent draws are told from the others.

    Parameters
    ----------
    name : str
        The element.
    draws : array of shape (chain, draw)
        Its draws.
    log : bool
        Whether it is looked at on a log scale.
    score : float
        Kullback-Leibler divergence of the divergent draws from all, both taken as normal.
    """

    name: str
    draws: np.ndarray
    log: bool
    score: float


def divergences(case: Case) -> Section | None:
    """How many transitions diverged, and where.

    Parameters
    ----------
    case : Case
        Its posterior and the statistic ``diverging``.

    Returns
    -------
    Section or None
        None where no transition diverged.
    """
    diverging = statistic(case, "diverging")
    if diverging is None or not diverging.any():
        return None
    diverging = diverging.astype(bool)
    located = _located(case, diverging)
    count, by_chain = int(diverging.sum()), diverging.sum(axis=1)
    facts = Facts(
        (
            ("Divergent transitions", f"{count} of {diverging.size} ({_share(count, diverging)})"),
            ("By chain", ", ".join(map(str, by_chain))),
        )
    )
    text = Text(f"{_where(located, diverging)} {_remedy(case)}".strip())
    blocks: list[Any] = [facts, text]
    if len(located) > 1:
        blocks.append(_pairs(located, diverging))
    values = {
        "count": count,
        "by_chain": by_chain.tolist(),
        "where": [
            {
                "name": e.name,
                "score": json_number(e.score),
                "divergent": json_number(np.median(e.draws[diverging])),
                "others": json_number(np.median(e.draws[~diverging])),
            }
            for e in located
            if not diverging.all()
        ],
    }
    return Section("divergences", "Divergences", tuple(blocks), data=values)


def _share(count: int, diverging: np.ndarray) -> str:
    return f"{said(100 * count / diverging.size, 2)} %"


def _located(case: Case, diverging: np.ndarray) -> list[Located]:
    """The elements that tell divergent draws best, of different sites as far as there are any."""
    if diverging.all():
        return []
    found = elements_of(case)
    posterior = case.tree["posterior"].to_dataset()
    scores = np.concatenate(
        [
            _scores(posterior[site].variable.transpose("chain", "draw", ...), diverging)
            for site in dict.fromkeys(found.sites)
        ]
    )
    order = [int(p) for p in np.argsort(-scores) if np.isfinite(scores[p]) and scores[p] > 0]
    first = {found.sites[p]: p for p in reversed(order)}
    best = [p for p in order if first[found.sites[p]] == p][: _PAIRS + 1]
    best += [p for p in order if p not in best][: _PAIRS + 1 - len(best)]
    located = []
    for place in best:
        draws = draws_at(case, found, place)
        located.append(Located(found.names[place], draws, is_wide(draws), float(scores[place])))
    return located


def is_wide(draws: np.ndarray) -> bool:
    """Whether draws are positive and span so many orders of magnitude that logarithms show more."""
    low, high = np.min(draws), np.max(draws)
    return bool(low > 0 and high > _WIDE * low)


def _scores(variable: Any, diverging: np.ndarray) -> np.ndarray:
    found = []
    for _, values in parts_of(variable):
        rows = values.reshape(-1, values.shape[2]).astype(float)
        with np.errstate(all="ignore"):
            wide = (rows.min(axis=0) > 0) & (rows.max(axis=0) > _WIDE * rows.min(axis=0))
            rows[:, wide] = np.log(rows[:, wide])
            found.append(separation(rows[diverging.ravel()], rows))
    return np.concatenate(found) if found else np.empty(0)


def separation(divergent: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """How far divergent draws are from all, in place or in spread.

    Parameters
    ----------
    divergent, draws : array of shape (draw, element)
        The divergent draws, and all of them.

    Returns
    -------
    array of shape (element,)
        Kullback-Leibler divergence of the one from the other, both taken as normal; NaN for an
        element that is constant.
    """
    count, variance = len(divergent), draws.var(axis=0)
    own = count * divergent.var(axis=0) + _PRIOR_DRAWS * variance
    ratio = own / (count + _PRIOR_DRAWS) / variance
    shift = np.square(divergent.mean(axis=0) - draws.mean(axis=0)) / variance
    return 0.5 * (shift + ratio - 1 - np.log(ratio))


def _where(located: list[Located], diverging: np.ndarray) -> str:
    if diverging.all():
        return "Every transition diverged: the step size is too large, or the gradient is wrong."
    words = []
    for element in located[:2]:
        inside, outside = element.draws[diverging], element.draws[~diverging]
        here, there = np.median(inside), np.median(outside)
        if element.score * len(inside) < _EVIDENCE:
            continue
        low, high = np.quantile(element.draws, (0.25, 0.75))
        if low <= here <= high:
            words.append(f"{element.name} stays close to {said(here)}")
        else:
            side = "smaller" if here < there else "larger"
            words.append(f"{element.name} is {side} (median {said(here)}, elsewhere {said(there)})")
    if not words:
        return (
            "Divergent draws are not in a place of their own: they are too few to tell, or false "
            "alarms, or the place is one that only several parameters together show."
        )
    return f"Where transitions diverged, {' and '.join(words)}."


def _remedy(case: Case) -> str:
    try:
        advice = case.diagnostics["divergences"].advice
    except KeyError:
        advice = ""
    # The check begins with the count, which is said already.
    todo = advice.split(";", 1)[1].strip() if ";" in advice else ""
    usual = (
        "A transition diverges where the posterior curves more strongly than the step size can "
        "follow, most often in the neck of a funnel: where a scale is near 0, what it scales has "
        "hardly any room. The draws may then miss that region."
    )
    return f"{usual} What helps: {todo}." if todo else usual


def _pairs(located: list[Located], diverging: np.ndarray) -> Figure:
    """The element that tells divergent draws best against the others.

    ArviZ's plot_pair draws every pair of a matrix, on linear scales, on which a funnel's neck does
    not show.
    """
    across, *others = located
    names = [e.name for e in others]
    several = np.flatnonzero(~diverging.ravel())
    several = several[:: -(-len(several) // _POINTS)]
    marked = np.flatnonzero(diverging.ravel())
    marked = marked[:: -(-len(marked) // _MARKED)]
    with drawing() as plt:
        figure, grid = plt.subplots(
            1, len(others), figsize=(min(7.2, 0.6 + 2.6 * len(others)), 2.7), squeeze=False
        )
        for axes, element in zip(grid[0], others, strict=True):
            x, y = element.draws.ravel(), across.draws.ravel()
            axes.scatter(
                x[several],
                y[several],
                s=5,
                color=COLOURS[0],
                alpha=0.35,
                linewidths=0,
                rasterized=True,
                label="other draws",
            )
            axes.scatter(
                x[marked],
                y[marked],
                s=14,
                color=COLOURS[1],
                alpha=0.9,
                linewidths=0,
                rasterized=len(marked) > 100,
                label="divergent",
            )
            axes.set_xscale("log" if element.log else "linear")
            axes.set_yscale("log" if across.log else "linear")
            axes.set_xlabel(_short(element.name))
        grid[0, 0].set_ylabel(_short(across.name))
        handles = grid[0, 0].get_legend_handles_labels()
        figure.tight_layout(rect=(0, 0, 1, 0.9))
        legend = figure.legend(
            *handles, loc="upper right", ncols=2, handletextpad=0.2, markerscale=1.6
        )
        for dots in legend.legend_handles:
            dots.set_alpha(1)
        caption = (
            "Draws of the pairs of parameters in which divergent ones are farthest from the others "
            "in place or closest together. Where they crowd, in a corner or along an edge, is "
            "where the sampler fails to enter."
        )
        if len(several) < np.sum(~diverging):
            caption += f" {len(several)} of the {np.sum(~diverging)} other draws are shown."
        summary = f"{across.name} against {listed(names)}, divergent draws marked."
        return picture(figure, caption, summary)


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:28]}…"
