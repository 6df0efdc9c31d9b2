"""Sensitivity to prior and likelihood: what raising either to a power does to the posterior."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from bayes.diagnostics.convergence import constant_elements, element_labels
from bayes.diagnostics.pointwise import log_density
from bayes.diagnostics.report.contents import Case, Figure, Section, Table, Text
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.elements import (
    card_sites,
    hyperparameters,
    sampled_sites,
)
from bayes.diagnostics.report.sections.wording import (
    json_numbers,
    lacking,
    listed,
    missing_section,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sensitivity"]

NAME, TITLE = "sensitivity", "Sensitivity to prior and likelihood"
THRESHOLD = 0.05
_MOST, _FEWEST_DRAWS, _SEARCHED = 200, 100, 20
_NAMED = 6

CONFLICT = "prior and data may disagree"
STRONG = "strong prior or weak likelihood"
WEAK = "neither moves it"


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How much an element's posterior moves.

    Parameters
    ----------
    name : str
        The element.
    prior, likelihood : float
        Cumulative Jensen-Shannon distance by a doubling of the power, for powers near 1.
    """

    name: str
    prior: float
    likelihood: float

    @property
    def diagnosis(self) -> str:
        """What the two say together; empty where the likelihood leads, as it should."""
        if self.prior >= THRESHOLD:
            return CONFLICT if self.likelihood >= THRESHOLD else STRONG
        return "" if self.likelihood >= THRESHOLD else WEAK


def sensitivity(case: Case) -> Section | None:
    """Power-scaling sensitivity of the posterior to prior and likelihood.

    The prior is that of the sites that depend on no other sampled site: what lies between these and
    the data is part of the model, not of what was believed beforehand.

    Parameters
    ----------
    case : Case
        Groups posterior, log_prior and log_likelihood.

    Returns
    -------
    Section or None
        None where there is nothing to compute it from and no reason why.

    References
    ----------
    Kallioinen, Paananen, Bürkner and Vehtari (2024), Detecting and diagnosing prior and likelihood
    sensitivity with power-scaling.
    """
    if absent := lacking(case, "posterior", "log_prior", "log_likelihood"):
        return missing_section(case, absent, NAME, TITLE)
    top = top_sites(case)
    prior, likelihood = (case.tree[g].to_dataset() for g in ("log_prior", "log_likelihood"))
    scaled = [name for name in top if name in prior.data_vars]
    sums = {"log_prior": log_density(prior, scaled), "log_likelihood": log_density(likelihood)}
    bad = [group for group, total in sums.items() if not np.isfinite(total.values).all()]
    if bad:
        reason = f"{' and '.join(bad)} are not finite at some draws"
        return Section(NAME, TITLE, missing=reason)
    if sums["log_prior"].size < _FEWEST_DRAWS:
        reason = f"fewer than {_FEWEST_DRAWS} draws are too few to reweight"
        return Section(NAME, TITLE, missing=reason)
    draws, total = _elements(case, sums["log_likelihood"])
    if not draws:
        return None
    found = _sensitivities(draws, sums)
    data = {
        "scaled": scaled,
        "elements": {
            f.name: {
                **json_numbers({"prior": f.prior, "likelihood": f.likelihood}),
                "diagnosis": f.diagnosis,
            }
            for f in found
        },
    }
    blocks = (Text(_verdict(found, scaled, case)), _figure(found), _table(found, total))
    return Section(NAME, TITLE, blocks, data=data)


def top_sites(case: Case) -> list[str]:
    """Sampled sites whose distributions depend on no other sampled site."""
    card = card_sites(case)
    return [n for n in sampled_sites(case) if not card.get(n, {}).get("parents")]


def _elements(case: Case, at: xr.DataArray) -> tuple[dict[str, np.ndarray], int]:
    """Draws by element, at the draws that log densities are of; hyperparameters, then evenly.

    Also of how many elements these are.
    """
    posterior = case.tree["posterior"].to_dataset()
    first = hyperparameters(case)
    order = [*first, *(n for n in sampled_sites(case) if n not in first)]
    sizes = {name: math.prod(posterior[name].shape[2:]) for name in order}
    places = [(name, place) for name in order for place in range(sizes[name])]
    leading = [p for p in places if p[0] in first or sizes[p[0]] == 1][:_MOST]
    rest = [p for p in places if not (p[0] in first or sizes[p[0]] == 1)]
    room = min(_MOST - len(leading), len(rest))
    chosen = [*leading, *(rest[i] for i in np.linspace(0, len(rest) - 1, room).astype(int))]
    found: dict[str, np.ndarray] = {}
    for name in order:
        wanted = sorted({place for site, place in chosen if site == name})
        if not wanted:
            continue
        variable = posterior[name].sel(chain=at["chain"], draw=at["draw"])
        values = variable.transpose("chain", "draw", ...).values
        kept = np.zeros(sizes[name], bool)
        kept[wanted] = True
        kept &= ~constant_elements(values)
        kept &= np.isfinite(values).all(axis=(0, 1)).ravel()
        flat = values.reshape(*values.shape[:2], -1)[..., kept].astype(float)
        labels = element_labels(name, values.shape[2:], kept)
        found.update(zip(labels, np.moveaxis(flat, 2, 0), strict=True))
    return found, len(places)


def _sensitivities(
    draws: dict[str, np.ndarray], sums: dict[str, xr.DataArray]
) -> list[Sensitivity]:
    """Sensitivities of each element, the most sensitive to the prior first."""
    import arviz_stats
    import xarray as xr

    dims = ("chain", "draw")
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({name: (dims, values) for name, values in draws.items()}),
            **{group: xr.Dataset({"total": (dims, total.values)}) for group, total in sums.items()},
        }
    )
    by_group = {}
    for group in ("prior", "likelihood"):
        # Without influence there is nothing to smooth, and ArviZ refuses equal weights.
        if np.ptp(sums[f"log_{group}"].values) < 1e-9:
            by_group[group] = dict.fromkeys(draws, 0.0)
        else:
            scaled = arviz_stats.psense(tree, group=group)
            by_group[group] = {name: float(scaled[name]) for name in draws}
    found = [Sensitivity(n, by_group["prior"][n], by_group["likelihood"][n]) for n in draws]
    return sorted(found, key=lambda f: -f.prior)


def _verdict(found: list[Sensitivity], scaled: list[str], case: Case) -> str:
    by_words = {
        words: [f.name for f in found if f.diagnosis == words] for words in (CONFLICT, STRONG, WEAK)
    }
    parts = []
    if by_words[CONFLICT]:
        parts.append(
            f"Prior and data pull {listed(by_words[CONFLICT], _NAMED)} apart (both sensitivities "
            f"at least {THRESHOLD}): look at prior against posterior there, and keep the prior "
            "only if it was meant to be informative."
        )
    if by_words[STRONG]:
        parts.append(
            f"The prior of {listed(by_words[STRONG], _NAMED)} leads, the data add little: say so "
            "where these are reported, and report how results change with the prior."
        )
    if not parts:
        parts.append(
            "No posterior depends much on the prior's exact strength: conclusions would be the "
            "same under a prior somewhat wider or narrower."
        )
    if len(scaled) < len(sampled_sites(case)):
        parts.append(
            f"Scaled was the prior of {listed(scaled)}, on which the other sites are built."
        )
    return " ".join(parts)


def _figure(found: list[Sensitivity]) -> Figure:
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        figure, axes = plt.subplots(figsize=(5.2, 3.2))
        points = np.array([(f.likelihood, f.prior) for f in found])
        flagged = np.array([f.diagnosis in (CONFLICT, STRONG) for f in found])
        for chosen, colour in ((~flagged, COLOURS[0]), (flagged, COLOURS[1])):
            axes.plot(*points[chosen].T, "o", color=colour, markersize=4, alpha=0.8)
        top = max(points[:, 1].max(), THRESHOLD) * 1.15
        right = max(points[:, 0].max(), THRESHOLD) * 1.1
        axes.axhline(THRESHOLD, color=ink, linestyle="--", linewidth=0.8)
        axes.axvline(THRESHOLD, color=ink, linestyle="--", linewidth=0.8)
        axes.set_xlim(-0.03 * right, right)
        axes.set_ylim(-0.03 * top, top)
        for f in found[:5]:
            if f.prior >= THRESHOLD / 2:
                axes.annotate(
                    f.name, (f.likelihood, f.prior), (4, 3), textcoords="offset points", fontsize=7
                )
        axes.set_xlabel("sensitivity to the likelihood")
        axes.set_ylabel("sensitivity to the prior")
        worst = found[0]
        caption = (
            "How much each posterior moves when prior or likelihood is made a little stronger or "
            "weaker (distance between distributions by a doubling of the power). Points should lie "
            f"low; the dashed lines are at {THRESHOLD}. High on the left the prior leads, high on "
            f"the right it disagrees with the data. Here the highest is {worst.name} with "
            f"{worst.prior:.2g}."
        )
        return picture(figure, caption, "Sensitivity to the prior by sensitivity to likelihood.")


def _table(found: list[Sensitivity], total: int) -> Table:
    columns = ("parameter", "prior", "likelihood", "diagnosis")
    rows = tuple((f.name, f.prior, f.likelihood, f.diagnosis) for f in found)
    flagged = tuple(i for i, f in enumerate(found) if f.diagnosis in (CONFLICT, STRONG))
    caption = f"Sensitivities by power-scaling; at least {THRESHOLD} counts as sensitive."
    if total > len(found):
        caption += f" {len(found)} of {total} elements, hyperparameters first and the rest evenly."
    return Table(columns, rows, caption, len(rows) > _SEARCHED, flagged)
