"""How the chains of the parameters that mixed worst went."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bayes.diagnostics.checks import ESS, RHAT
from bayes.diagnostics.convergence import LOG_DENSITY, convergence
from bayes.diagnostics.ranks import bulk_ess, tail_ess
from bayes.diagnostics.report.contents import Block, Case, Figure, Section, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.chain_findings import Traced, finding, relative_ranks
from bayes.diagnostics.report.sections.statistics import (
    draws_at,
    elements_of,
    is_markov,
    statistic,
    worst_first,
)
from bayes.diagnostics.report.sections.wording import json_number, listed, said

__all__ = ["chains"]

_MOST, _MOST_OF_A_SITE, _MOST_CHAINS = 4, 2, 8
_BINS, _RANKS, _LOOKS = 110, 80, 12


def chains(case: Case) -> Section | None:
    """Traces, ranks and the growth of effective sample sizes, of the elements that mixed worst.

    Parameters
    ----------
    case : Case
        Its posterior, and the log density where there is one.

    Returns
    -------
    Section or None
        None for draws that are not of Markov chains, for fewer than 4 a chain, and where all
        elements are constant.
    """
    if not is_markov(case) or case.tree["posterior"].sizes["draw"] < 4:
        return None
    traced = _worst(case)
    if not traced:
        return None
    findings = {t.name: finding(t) for t in traced}
    blocks: list[Block] = [Text(_text(traced, findings)), _traces(traced)]
    judged = [t for t in traced if t.name != LOG_DENSITY and t.draws.shape[1] >= 4 * _LOOKS]
    growth = _growth(judged)
    if growth:
        blocks.append(_evolution(judged, growth))
    values = [
        {
            "name": t.name,
            "rhat": json_number(t.rhat),
            "ess_bulk": json_number(t.bulk),
            "ess_tail": json_number(t.tail),
            "finding": findings[t.name],
            "ess_bulk_by_draws": [json_number(v) for v in growth.get(t.name, ((), ()))[0]],
            "ess_tail_by_draws": [json_number(v) for v in growth.get(t.name, ((), ()))[1]],
        }
        for t in traced
    ]
    return Section("chains", "Chains", tuple(blocks), data={"worst": values})


def _worst(case: Case) -> list[Traced]:
    """The elements that mixed worst, few of a site unless there are no others."""
    found = elements_of(case)
    order = [int(place) for place in worst_first(found)]
    chosen: list[int] = []
    for place in order:
        of_site = sum(found.sites[c] == found.sites[place] for c in chosen)
        if of_site < _MOST_OF_A_SITE:
            chosen.append(place)
        if len(chosen) == _MOST:
            break
    chosen += [place for place in order[:_MOST] if place not in chosen][: _MOST - len(chosen)]
    traced = [
        Traced(
            found.names[p],
            draws_at(case, found, p),
            float(found.rhat[p]),
            float(found.bulk[p]),
            float(found.tail[p]),
        )
        for p in chosen
    ]
    density = statistic(case, "lp")
    if density is not None:
        judged = convergence({LOG_DENSITY: density.astype(float)}, None)
        rhat = judged.worst_rhat[0]
        # The log density shows chains in different modes; nobody needs its mean.
        if rhat >= RHAT:
            shown = Traced(LOG_DENSITY, density, rhat, judged.worst_bulk[0], judged.worst_tail[0])
            traced = [*traced[: _MOST - 1], shown]
    return sorted(traced, key=lambda t: -t.rhat if t.rhat >= RHAT else 0.0)


def _text(traced: list[Traced], findings: dict[str, str]) -> str:
    lead = "Shown are the parameters that mixed worst"
    lead += ", by R-hat and then by effective sample size" if len(traced) > 1 else ""
    lines = [
        f"{t.name}: {findings[t.name]} ("
        + (f"R-hat {t.rhat:.3f}, " if np.isfinite(t.rhat) else "")
        + f"bulk ESS {said(t.bulk)}, tail ESS {said(t.tail)})."
        for t in traced
    ]
    return "\n".join([f"{lead}.", *lines])


def _traces(traced: list[Traced]) -> Figure:
    """Traces and ranks side by side.

    What ArviZ's plot_trace and plot_rank draw, at fewer points: for four elements they take more
    than a second and 550 kB.
    """
    several = len(traced[0].draws) > 1
    shown = _chains_shown(traced[0].draws)
    with drawing() as plt:
        figure, grid = plt.subplots(
            len(traced),
            2 if several else 1,
            figsize=(7.2, 1.45 * len(traced) + 0.35),
            squeeze=False,
            width_ratios=(1.7, 1) if several else (1,),
        )
        for row, t in zip(grid, traced, strict=True):
            _trace(row[0], t, shown)
            if several:
                _rank_curves(row[1], t, shown)
        grid[-1, 0].set_xlabel("draw")
        if several:
            grid[-1, 1].set_xlabel("rank among all draws")
            handles = grid[0, 0].get_legend_handles_labels()
            legend = figure.legend(*handles, loc="upper right", ncols=_MOST_CHAINS, handlelength=1)
            for line in legend.get_lines():
                line.set(linewidth=2, alpha=1)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.22 / figure.get_figheight()), h_pad=0.5)
        names = listed([t.name for t in traced])
        return picture(figure, _trace_caption(traced, several, shown), f"Traces of {names}.")


def _trace_caption(traced: list[Traced], several: bool, shown: list[int]) -> str:
    text = (
        "Left: draws in their order. Good chains look like noise around the same level."
        if several
        else "Draws in their order. A good chain looks like noise around one level."
    )
    if traced[0].draws.shape[1] > 2 * _BINS:
        text += " Of every stretch the smallest and the largest draw are shown."
    if several:
        text += (
            " Right: by how much more of a chain's draws lie below a rank than the share of all "
            "draws that do. Chains that agree stay within the band (95 %, roughly, by their "
            "effective sizes); a chain that lies too low bulges upwards, one that lies too high "
            "downwards."
        )
    if len(shown) < len(traced[0].draws):
        text += f" {len(shown)} of {len(traced[0].draws)} chains are drawn."
    return text


def _chains_shown(draws: np.ndarray) -> list[int]:
    """All chains; of many, those farthest from the others at the element that mixed worst."""
    if len(draws) <= _MOST_CHAINS:
        return list(range(len(draws)))
    off = np.abs(relative_ranks(draws).mean(axis=1) - 0.5)
    return sorted(int(c) for c in np.argsort(-off)[:_MOST_CHAINS])


def _trace(axes: Any, traced: Traced, shown: list[int]) -> None:
    for place, chain in enumerate(shown):
        x, y = outline(traced.draws[chain], _BINS)
        axes.plot(x, y, color=COLOURS[place], linewidth=0.6, alpha=0.75, label=f"chain {chain}")
    axes.set_title(_short(traced.name), loc="left")
    axes.margins(x=0.01)
    axes.locator_params(axis="y", nbins=4)


def outline(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """A trace with the smallest and the largest value of every stretch, in their order.

    Parameters
    ----------
    values : array of shape (draw,)
        The trace.
    bins : int
        Stretches.

    Returns
    -------
    places, values : array
        Where they are, and what; the whole trace where it is short.
    """
    if len(values) <= 2 * bins:
        return np.arange(len(values)), values
    edges = np.linspace(0, len(values), bins + 1).astype(int)
    places = []
    for start, stop in itertools.pairwise(edges):
        part = values[start:stop]
        places += sorted((start + int(part.argmin()), start + int(part.argmax())))
    return np.array(places), values[places]


def _rank_curves(axes: Any, traced: Traced, shown: list[int]) -> None:
    draws = traced.draws
    if not np.isfinite(draws).all():
        axes.set_axis_off()
        return
    ranks = np.sort(relative_ranks(draws), axis=1)
    grid = np.linspace(0, 1, _RANKS + 1)
    size = max(4.0, traced.bulk / len(draws)) if np.isfinite(traced.bulk) else draws.shape[1]
    # Dvoretzky, Kiefer and Wolfowitz (1956), for all chains at once.
    band = np.sqrt(np.log(2 * len(draws) / 0.05) / (2 * size))
    axes.axhspan(-band, band, color="#888888", alpha=0.18, linewidth=0)
    largest = 0.0
    for place, chain in enumerate(shown):
        curve = np.searchsorted(ranks[chain], grid, side="right") / draws.shape[1] - grid
        largest = max(largest, float(np.abs(curve).max()))
        axes.plot(grid, curve, color=COLOURS[place], linewidth=1.0)
    reach = 1.15 * max(largest, min(band, 0.5))
    axes.set_ylim(-reach, reach)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.locator_params(axis="y", nbins=3)


def _growth(traced: list[Traced]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Bulk and tail effective sample sizes of the first part of the draws, for some parts.

    ArviZ's plot_ess_evolution takes as long as all else here, and gives each element a panel of its
    own, so that they are not compared.
    """
    traced = [t for t in traced if np.isfinite(t.draws).all()]
    if not traced:
        return {}
    values = np.stack([t.draws for t in traced], axis=2).astype(float)
    looks = _looks(values.shape[1])
    bulk = np.stack([bulk_ess(values[:, :n]) for n in looks])
    tail = np.stack([tail_ess(values[:, :n]) for n in looks])
    return {t.name: (bulk[:, i], tail[:, i]) for i, t in enumerate(traced)}


def _looks(draws: int) -> np.ndarray:
    return np.linspace(draws / _LOOKS, draws, _LOOKS).astype(int)


def _evolution(traced: list[Traced], growth: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    number, draws = traced[0].draws.shape
    looks = number * _looks(draws)
    with drawing() as plt:
        figure, pair = plt.subplots(1, 2, figsize=(7.2, 2.5), sharex=True)
        for kind, axes in enumerate(pair):
            for place, (name, sizes) in enumerate(growth.items()):
                style = {"color": COLOURS[place], "marker": "o", "markersize": 2.5}
                axes.plot(looks, sizes[kind], label=_short(name), **style)
            axes.axhline(ESS, color=plt.rcParams["text.color"], linewidth=0.8, linestyle="--")
            axes.set_title(f"{('bulk', 'tail')[kind]} ESS", loc="left")
            axes.set_xlabel("draws of all chains")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.locator_params(nbins=5)
        handles = pair[0].get_legend_handles_labels()
        figure.tight_layout(rect=(0, 0, 1, 0.9))
        figure.legend(*handles, loc="upper right", ncols=4, handlelength=1.2)
        return picture(figure, _growth_words(growth), "Effective sample sizes as draws grew.")


def _growth_words(growth: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    text = (
        f"Effective sample size of the draws so far; dashed, the {ESS} that are wanted. It should "
        "grow in proportion to the draws: where it does not, more of them will not help."
    )
    stalled = [
        name
        for name, sizes in growth.items()
        if any(s[-1] < 1.2 * s[_LOOKS // 2 - 1] and s[-1] < ESS for s in sizes)
    ]
    if stalled:
        return f"{text} It hardly grew over the second half of the draws for {listed(stalled)}."
    return text


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:38]}…"
