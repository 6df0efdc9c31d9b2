"""A posterior as a notebook shows it: the verdict, the method and some rows of its summary."""

from __future__ import annotations

import html
import warnings
from typing import TYPE_CHECKING

import numpy as np

from bayes.diagnostics.report.cells import columns_of
from bayes.diagnostics.report.contents import Table
from bayes.diagnostics.report.wording import check_lines, headline

if TYPE_CHECKING:
    import xarray as xr

    from bayes.posterior import Posterior

__all__ = ["short_html"]

_ROWS = 20
_RANKED_NUMBERS = 500_000
"""How many numbers the rows are chosen by: a notebook does not wait for more."""


def short_html(posterior: Posterior) -> str:
    """Verdict, method and some rows of the summary, for a notebook.

    Parameters
    ----------
    posterior : Posterior
        The posterior.

    Returns
    -------
    str
        HTML; where the posterior is not ok, the elements with the largest R-hat come first.
    """
    verdict = posterior.diagnostics
    table, total = _short_table(posterior)
    columns = columns_of(table)
    sides = ["right" if c.numeric else "left" for c in columns]
    head = "".join(
        f'<th style="text-align:{side}">{html.escape(c.heading)}</th>'
        for c, side in zip(columns, sides, strict=True)
    )
    lines = [
        "".join(
            f'<td style="text-align:{side}">{html.escape(c.cells[row])}</td>'
            for c, side in zip(columns, sides, strict=True)
        )
        for row in range(len(table.rows))
    ]
    reasons = "".join(
        f"<li>{html.escape(f'{c.label} {c.value} (threshold {c.threshold}): {c.advice}')}</li>"
        for c in check_lines(verdict.failed)
    )
    order = "the first" if verdict.ok else "the largest R-hat first"
    more = f"<p>{len(table.rows)} of {total} rows, {order}</p>" if total > len(table.rows) else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f"<div><p><strong>{'✓' if verdict.ok else '✗'} {html.escape(headline(verdict))}</strong>"
        f"</p>{f'<ul>{reasons}</ul>' if reasons else ''}"
        f"<p>{html.escape(str(posterior.method))} ({posterior.method.seconds:.1f} s)</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def _short_table(posterior: Posterior) -> tuple[Table, int]:
    """Summaries of a few elements, and how many elements there are."""
    import xarray as xr

    from bayes.diagnostics.table import summary, summary_kind

    sites = posterior.data["posterior"].to_dataset()
    places = [
        (name, int(i))
        for name, variable in sites.data_vars.items()
        for i in range(int(np.prod(variable.shape[2:], dtype=int)))
    ]
    chosen = places[:_ROWS]
    if not posterior.diagnostics.ok and sites.sizes["chain"] > 1 and sites.sizes["draw"] > 3:
        rhat = _quick_rhat(sites, len(places))
        chosen = [places[i] for i in np.argsort(-rhat, kind="stable")[:_ROWS]]
    labels, values = [], []
    for name, place in chosen:
        variable = sites[name].transpose("chain", "draw", ...)
        at = dict(zip(variable.dims[2:], np.unravel_index(place, variable.shape[2:]), strict=True))
        element = variable.isel(at)
        at_labels = ", ".join(str(element[d].values if d in element.coords else at[d]) for d in at)
        labels.append(f"{name}[{at_labels}]" if at else str(name))
        values.append(element.values)
    coords = {"chain": sites["chain"], "draw": sites["draw"], "element": np.arange(len(labels))}
    one = xr.DataArray(np.stack(values, axis=-1), coords, dims=("chain", "draw", "element"))
    tree = xr.DataTree.from_dict({"posterior": one.to_dataset(name="x")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = summary(tree, round_to="none", kind=summary_kind(posterior.data))
    rows = zip(labels, *(frame[c].tolist() for c in frame.columns), strict=True)
    return Table(("", *map(str, frame.columns)), tuple(rows)), len(places)


def _quick_rhat(sites: xr.Dataset, count: int) -> np.ndarray:
    """R-hat of every element; of many numbers, from some of the draws."""
    from bayes.diagnostics.ranks import rank_rhat

    chains, draws = sites.sizes["chain"], sites.sizes["draw"]
    step = max(1, min(count * chains * draws // _RANKED_NUMBERS, draws // 20))
    found = []
    for variable in sites.data_vars.values():
        some = variable.transpose("chain", "draw", ...).isel(draw=slice(None, None, step)).values
        with np.errstate(all="ignore"):
            found.append(rank_rhat(some.reshape(*some.shape[:2], -1).astype(float)))
    return np.nan_to_num(np.concatenate(found), nan=-np.inf, posinf=np.inf)
