"""How the sampler moved: energies, and the lengths of its trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes.diagnostics.checks import BFMI, SATURATED_SHARE
from bayes.diagnostics.report.contents import Block, Case, Facts, Figure, Section, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.statistics import statistic
from bayes.diagnostics.report.sections.wording import json_number, listed, said

__all__ = ["energy", "tree_depth"]


def energy(case: Case) -> Section | None:
    """Whether momenta drawn afresh reach all energies of the posterior.

    Parameters
    ----------
    case : Case
        The statistic ``energy``.

    Returns
    -------
    Section or None
        None where there is none, or hardly any draw.

    References
    ----------
    Betancourt (2016), Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo.
    """
    values = statistic(case, "energy")
    if values is None or values.shape[1] < 4:
        return None
    if not np.isfinite(values).all():
        return Section("energy", "Energy", missing="some energies are not finite")
    if not np.ptp(values):
        return Section("energy", "Energy", missing="the energy is the same at all draws")
    fractions = _fractions(values)
    low = np.flatnonzero(~(fractions >= BFMI))
    low_end, high_end = (said(end(fractions), 2) for end in (np.nanmin, np.nanmax))
    words = f"E-BFMI is {low_end}"
    if len(fractions) > 1:
        words += f" to {high_end} over the chains"
    if len(low):
        which = f"chain{'s' if len(low) > 1 else ''} {listed(list(map(str, low)))}"
        words += (
            f", below {BFMI:g} in {which}: "
            "the energy changes so little from one draw to the next that tails are explored "
            "slowly. Heavy tails and funnels do this; reparametrise."
        )
    else:
        words += f", not below {BFMI:g}: the draws reach all energies well."
    blocks = (Text(words), _energy_figure(values, float(np.nanmax(fractions))))
    data = {"ebfmi": [json_number(f) for f in fractions], "threshold": BFMI}
    return Section("energy", "Energy", blocks, data=data)


def _fractions(values: np.ndarray) -> np.ndarray:
    """E-BFMI of every chain; NaN where a chain's energy does not change."""
    from arviz_stats.base import array_stats

    with np.errstate(all="ignore"):
        found: Any = array_stats.bfmi(values, chain_axis=0, draw_axis=1)
    return np.asarray(found, float)


def _energy_figure(values: np.ndarray, highest: float) -> Figure:
    """E-BFMI by chain, and the distributions of energies and their changes."""
    import arviz_plots
    import xarray as xr

    coords = {"chain": np.arange(len(values)), "draw": np.arange(values.shape[1])}
    stats = xr.Dataset({"energy": (("chain", "draw"), values)}, coords)
    with drawing() as plt, np.errstate(all="ignore"):  # a chain whose energy does not vary
        # ArviZ's own choice of a colour goes by a background, and there is none.
        ink = {"color": plt.rcParams["text.color"]}
        visuals: Any = {"bfmi_points": {"color": COLOURS[2]}}
        visuals |= dict.fromkeys(("ref_line", "title", "ylabel"), ink)
        drawn = arviz_plots.plot_energy(
            xr.DataTree.from_dict({"sample_stats": stats}),
            threshold=BFMI,
            backend="matplotlib",
            figure_kwargs={"figsize": (7.2, 2.5), "figsize_units": "inches"},
            visuals=visuals,
        )
        figure = drawn.get_viz("figure")
        left, right = figure.axes
        left.set_title("E-BFMI")
        left.set_xlim(0, 1.1 * max(highest, 2 * BFMI))
        left.set_ylim(len(values) - 0.5, -0.5)
        left.yaxis.get_major_locator().set_params(integer=True)
        right.set_xlabel("energy, centred")
        caption = (
            f"Left: E-BFMI by chain; dashed, the {BFMI:g} below which it is low. Right: the energy "
            "of all draws (marginal), and its changes from one draw to the next (transition). The "
            "second should be about as wide as the first; where it is much narrower, draws move "
            "through the tails in small steps."
        )
        return picture(figure, caption, "Distributions of energy and its changes; E-BFMI by chain.")


def tree_depth(case: Case) -> Section | None:
    """How long trajectories were, whether they were cut, and how often they were accepted.

    Parameters
    ----------
    case : Case
        The statistics ``tree_depth``, ``n_steps`` and ``acceptance_rate``.

    Returns
    -------
    Section or None
        None for samplers without trees.
    """
    depth = statistic(case, "tree_depth")
    info = (case.card.get("method") or {}).get("info") or {}
    deepest = int(info.get("max_tree_depth") or 0)
    if depth is None or info.get("max_tree_depth") == 0 or not depth.any():
        return None
    steps, acceptance = statistic(case, "n_steps"), statistic(case, "acceptance_rate")
    cut = float((depth >= deepest).mean()) if deepest else 0.0
    rows = [("Tree depth", f"{said(np.median(depth))} at the median, {int(depth.max())} at most")]
    if deepest:
        rows.append(("Cut at the greatest depth", f"{said(100 * cut, 2)} % (depth {deepest})"))
    if steps is not None:
        rows.append(
            (
                "Leapfrog steps a draw",
                f"{said(steps.mean())} on average, {int(steps.max())} at most",
            )
        )
    if acceptance is not None:
        aim = info.get("target_accept")
        wanted = f" (aimed at {said(aim)})" if isinstance(aim, (int, float)) else ""
        rows.append(("Acceptance", f"{said(acceptance.mean())} on average{wanted}"))
    blocks: list[Block] = [Facts(tuple(rows))]
    if cut > SATURATED_SHARE:
        blocks.append(
            Text(
                "Many trajectories were cut before they turned back: the sampler needs steps that "
                "are small beside the extent of the posterior. A longer warm-up, metric='dense' or "
                "parameters on a similar scale make it faster; the draws are not wrong for it."
            )
        )
    blocks.append(_depth_figure(depth, steps, acceptance, deepest))
    data = {
        "depths": {
            str(k): int(n) for k, n in zip(*np.unique(depth, return_counts=True), strict=True)
        },
        "greatest": deepest or None,
        "cut": json_number(cut),
        "leapfrogs": None if steps is None else json_number(steps.mean()),
        "acceptance": None if acceptance is None else json_number(acceptance.mean()),
    }
    return Section("tree-depth", "Trajectories", tuple(blocks), data=data)


def _depth_figure(
    depth: np.ndarray, steps: np.ndarray | None, acceptance: np.ndarray | None, deepest: int
) -> Figure:
    panels = [("depth", depth), ("steps", steps), ("acceptance", acceptance)]
    panels = [(name, values) for name, values in panels if values is not None]
    with drawing() as plt:
        figure, grid = plt.subplots(1, len(panels), figsize=(2.4 * len(panels), 2.3), squeeze=False)
        for axes, (name, values) in zip(grid[0], panels, strict=True):
            _histogram(axes, name, values.ravel(), deepest)
        grid[0, 0].set_ylabel("draws")
        figure.tight_layout()
        shaded = " (shaded)" if deepest and depth.max() >= deepest else ""
        caption = (
            "Tree depth d stands for up to 2^d − 1 leapfrog steps; trajectories end where they "
            f"turn back, or at the greatest depth{shaded}."
        )
        if acceptance is not None:
            caption += " Acceptance is an average over the trajectory."
        return picture(figure, caption, "Histograms of tree depth, leapfrog steps and acceptance.")


def _histogram(axes: Any, name: str, values: np.ndarray, deepest: int) -> None:
    colour = COLOURS[0]
    if name == "depth":
        kinds, counts = np.unique(values, return_counts=True)
        axes.bar(kinds, counts, width=0.8, color=colour)
        most = int(kinds[-1])
        axes.set_xticks(range(0, most + 2, 1 + most // 8))
        if deepest and most >= deepest:
            axes.axvspan(deepest - 0.5, deepest + 0.5, color=COLOURS[1], alpha=0.25, linewidth=0)
        axes.set_xlabel("tree depth")
    elif name == "steps":
        axes.hist(values, bins=24, color=colour)
        axes.set_xlabel("leapfrog steps")
    else:
        axes.hist(np.clip(values, 0, 1), bins=np.linspace(0, 1, 25), color=colour)
        axes.set_xlabel("acceptance")
    axes.locator_params(axis="y", nbins=4)
