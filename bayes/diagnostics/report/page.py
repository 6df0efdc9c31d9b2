"""A report as one HTML page: style, script and figures inside, nothing fetched."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import pathlib
import re
from typing import TYPE_CHECKING, Any

from bayes.diagnostics.report.cells import chosen_rows, columns_of
from bayes.diagnostics.report.contents import Block, Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.wording import check_lines, headline, particulars

if TYPE_CHECKING:
    from bayes.diagnostics.report.report import Report

__all__ = ["page"]

_HERE = pathlib.Path(__file__).parent

_STATIC_ROWS = 500
"""Searchable tables with more rows are drawn by the script, a page at a time."""
_FIRST_ROWS = 50
_FIGURE_BYTES, _TABLE_BYTES = 2_400_000, 2_000_000
"""What all figures, and all rows that the script draws, may take: a page stays below 5 MB."""


def page(report: Report) -> str:
    """Write a report as an HTML page.

    Parameters
    ----------
    report : Report
        The report.

    Returns
    -------
    str
        A document whose security policy forbids it to fetch anything.
    """
    from markupsafe import Markup

    style, script = (_HERE / "page.css").read_text("utf-8"), (_HERE / "page.js").read_text("utf-8")
    # The policy names the script by its hash, so that no other one runs, whatever a label says.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = report.diagnostics
    return _template().render(
        title=report.title,
        particulars=particulars(report),
        ok=report.ok,
        headline=headline(found),
        failed=check_lines(found.failed),
        sections=_views(report.sections),
        thinned=report.card.get("thinned"),
        versions=report.card.get("versions", {}),
        digest=digest,
        style=Markup(style),
        script=Markup(script),
    )


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2")


def _views(sections: tuple[Section, ...]) -> list[dict[str, Any]]:
    """Sections as the template takes them."""
    kept = _fitting_figures(sections)
    tables = [b for s in sections for b in s.blocks if isinstance(b, Table) and _is_long(b)]
    room = _TABLE_BYTES // max(1, len(tables))
    return [
        {
            "name": re.sub(r"[^a-z0-9-]+", "-", section.name.lower()),
            "title": section.title,
            "missing": section.missing,
            "blocks": [_view(block, kept, room) for block in section.blocks],
        }
        for section in sections
    ]


def _view(block: Block, kept: set[int], room: int) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"kind": "text", "text": block.text}
    if isinstance(block, Facts):
        return {"kind": "facts", "rows": block.rows}
    if isinstance(block, Figure):
        if id(block) not in kept:
            size = f"{len(block.svg) / 1e6:.1f} MB"
            left_out = f"A figure of {size} is left out to keep the page small. {block.summary}"
            return {"kind": "text", "text": left_out}
        return _figure(block)
    return _table(block, room)


def _figure(figure: Figure) -> dict[str, Any]:
    from markupsafe import Markup

    box = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', figure.svg)
    width = float(box[1]) * 4 / 3 if box else 640.0  # points to pixels
    svg = figure.svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    values = dataclasses.asdict(figure) | {"svg": Markup(svg), "width": round(width)}
    return {"kind": "figure", **values}


def _fitting_figures(sections: tuple[Section, ...]) -> set[int]:
    """Figures that fit in the page, the smallest first."""
    figures = [b for s in sections for b in s.blocks if isinstance(b, Figure)]
    kept, room = set(), _FIGURE_BYTES
    for figure in sorted(figures, key=lambda f: len(f.svg)):
        room -= len(figure.svg.encode())
        if room < 0:
            break
        kept.add(id(figure))
    return kept


def _is_long(table: Table) -> bool:
    return table.searchable and len(table.rows) > _STATIC_ROWS


def _table(table: Table, room: int) -> dict[str, Any]:
    """A table with all of its rows, or with the first and the rest as columns for the script."""
    columns = columns_of(table)
    flagged = set(table.flagged)
    chosen, data = list(range(len(table.rows))), None
    if _is_long(table):
        size = sum(len(cell.encode()) + 3 for column in columns for cell in column.cells)
        chosen = chosen_rows(table, room * len(table.rows) // max(1, size))
        data = {
            "cells": [[column.cells[row] for row in chosen] for column in columns],
            "flagged": [place for place, row in enumerate(chosen) if row in flagged],
        }
    shown = chosen[:_FIRST_ROWS] if data else chosen
    return {
        "kind": "table",
        "caption": table.caption,
        "searchable": table.searchable,
        "columns": [{"heading": c.heading, "numeric": c.numeric} for c in columns],
        "rows": [
            {"cells": [c.cells[row] for c in columns], "flagged": row in flagged} for row in shown
        ],
        "data": data,
        "kept": len(chosen),
        "total": len(table.rows),
        "flagged": len(flagged),
    }
