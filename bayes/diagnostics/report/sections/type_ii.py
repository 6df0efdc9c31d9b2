"""Variances that were estimated, and what the posterior given them leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.report.contents import Block, Case, Facts, Figure, Section, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.traces import traces
from bayes.diagnostics.report.sections.wording import json_number, listed, said

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["type_ii"]

NAME, TITLE = "type-ii", "Variances by maximum evidence"
_MOST_AXES = 6


def type_ii(case: Case) -> Section | None:
    """The variances along each axis, how they were found and how much they are taken for known.

    Parameters
    ----------
    case : Case
        Of a type-II fit, whose info names the sites of the variances (``scales``).

    Returns
    -------
    Section or None
        None for other methods.
    """
    info = case.card.get("method", {}).get("info") or {}
    if not info.get("type_ii"):
        return None
    sites = [str(s) for s in info.get("scales") or () if s in case.tree["posterior"].data_vars]
    kept = {s: _kept(case, s, float(info.get("prune", 0.0))) for s in sites}
    blocks: list[Block] = [Text(_words(info, kept)), Facts(_facts(info))]
    if sites:
        blocks.append(_figure(case, sites[:_MOST_AXES], kept))
    blocks += traces(info)
    names = ("log_evidence", "null_evidence", "widening", "observations_per_variance", "sweeps")
    data = {name: json_number(info[name]) for name in names if info.get(name) is not None}
    return Section(NAME, TITLE, tuple(blocks), data={**data, "kept": kept})


def _values(case: Case, site: str) -> np.ndarray:
    return np.ravel(case.tree["posterior"].to_dataset()[site].values[0, 0])


def _kept(case: Case, site: str, prune: float) -> int:
    """Elements that are not taken for zero."""
    values = _values(case, site)
    return int(np.sum(values > prune * values.max()))


def _words(info: Mapping[str, Any], kept: Mapping[str, int]) -> str:
    text = (
        "Variances and noise are those of greatest evidence, or with their priors most probable "
        "(type II). Given them the coefficients' posterior is normal, and the draws are exact."
    )
    if kept:
        counts = [f"{count} of {name}" for name, count in kept.items()]
        text += f" Not taken for zero are {listed(counts)}."
    widening = info.get("widening")
    if widening is not None:
        text += (
            " With the uncertainty of the variances intervals of relevant coefficients would be "
            f"{float(widening):.2f} times as wide, to first order."
        )
    if info.get("masked"):
        text += " Missing observations were filled in by conjugate gradients between updates."
    return text


def _facts(info: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = []
    if info.get("log_evidence") is not None:
        error = info.get("log_evidence_error")
        about = f" ± {said(float(error), 2)}" if error is not None else ""
        rows.append(("Log evidence at these variances", f"{info['log_evidence']:.1f}{about}"))
        gain = float(info["log_evidence"]) - float(info["null_evidence"])
        rows.append(("More than without coefficients", f"{gain:.1f}"))
    rows.append(("Sweeps", str(info.get("sweeps", ""))))
    starts = info.get("evidence_of_starts") or ()
    if len(starts) > 1:
        rows.append(("Starts tried", f"{len(starts)}; number {int(info['start']) + 1} went on"))
    share = info.get("observations_per_variance")
    if share is not None:
        rows.append(("Observations a variance", said(float(share), 3)))
    return tuple(rows)


def _figure(case: Case, sites: list[str], kept: Mapping[str, int]) -> Figure:
    with drawing() as plt:
        size = (min(2.6 * len(sites), 8.0) if len(sites) > 1 else 4.0, 2.2)
        figure, grid = plt.subplots(1, len(sites), figsize=size, squeeze=False)
        for axes, site in zip(grid[0], sites, strict=True):
            values = _values(case, site)
            values = values / values.max()
            axes.vlines(np.arange(len(values)), 0.0, values, color=COLOURS[0], linewidth=1.2)
            axes.set_title(site)
            axes.set_ylim(bottom=0.0)
            axes.set_xlabel("element")
        grid[0][0].set_ylabel("share of the largest")
        figure.tight_layout()
        said_of = listed([f"{site}: {kept[site]} elements" for site in sites])
        return picture(
            figure,
            "What the prior variances along each axis are made of, relative to the largest.",
            f"Relevance along each axis; not taken for zero are {said_of}.",
        )
