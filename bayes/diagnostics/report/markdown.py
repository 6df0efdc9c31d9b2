"""A report as Markdown, for terminals and for text that others go on with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bayes.diagnostics.report.cells import chosen_rows, columns_of
from bayes.diagnostics.report.contents import Block, Facts, Figure, Table, Text
from bayes.diagnostics.report.wording import check_lines, headline, particulars

if TYPE_CHECKING:
    from bayes.diagnostics.report.report import Report

__all__ = ["markdown"]

_MOST_ROWS = 30


def markdown(report: Report) -> str:
    """Write a report as Markdown.

    Parameters
    ----------
    report : Report
        The report.

    Returns
    -------
    str
        Figures are told in a sentence; of long tables there are the flagged rows and the first.
    """
    parts = [f"# {_safe(report.title)}", _safe(" · ".join(particulars(report))), _verdict(report)]
    for section in report.sections:
        parts.append(f"## {_safe(section.title)}")
        parts += map(_block, section.blocks)
        parts.append(f"*Missing:* {_safe(section.missing)}" if section.missing else "")
    if "thinned" in report.card:
        parts.append(f"Computed at fewer draws: {_safe(report.card['thinned'])}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def _verdict(report: Report) -> str:
    found = report.diagnostics
    lines = [f"**{_safe(headline(found))}**", ""]
    for check in check_lines(found.failed):
        figures = f"{check.value} (threshold {check.threshold})"
        lines.append(_safe(f"- {check.label}: {figures}: {check.advice}"))
    return "\n".join(lines).rstrip()


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return _safe(block.text)
    if isinstance(block, Facts):
        return "\n".join(f"- {_safe(label)}: {_safe(value)}" for label, value in block.rows)
    if isinstance(block, Figure):
        return f"*Figure:* {_safe(block.summary)}"
    return _table(block)


def _table(table: Table) -> str:
    rows = chosen_rows(table, _MOST_ROWS)
    flagged = set(table.flagged)
    lines: list[list[str]] = [[] for _ in range(len(rows) + 2)]
    for place, column in enumerate(columns_of(table)):
        mark = ["! " if place == 0 and row in flagged else "" for row in rows]
        cells = [m + column.cells[row] for m, row in zip(mark, rows, strict=True)]
        cells = [_safe(cell).replace("|", r"\|") for cell in [column.heading, *cells]]
        width = max(3, *map(len, cells))
        side = str.rjust if column.numeric else str.ljust
        rule = "-" * (width - 1) + (":" if column.numeric else "-")
        text = [side(cell, width) for cell in cells]
        for line, cell in zip(lines, [text[0], rule, *text[1:]], strict=True):
            line.append(cell)
    parts = [_safe(table.caption), "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if len(rows) < len(table.rows):
        which = "those flagged (!) and the first others" if flagged else "the first"
        parts.append(f"{len(rows)} of {len(table.rows)} rows: {which}")
    elif flagged:
        parts.append("! marks rows that a check objects to")
    return "\n\n".join(filter(None, parts))


def _safe(text: str) -> str:
    """Text in one line whose characters stand for themselves."""
    text = re.sub(r"([\\`*<])", r"\\\1", " ".join(str(text).split()))
    return text.replace("](", r"]\(")
