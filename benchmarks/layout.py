"""Tables as aligned text or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Lay a table out: the first column to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (heads, *rows)]
    if markdown:
        cells = [[text.replace("|", "\\|") for text in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = []
    for row in cells:
        texts = [row[0].ljust(widths[0])]
        texts += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(texts) + " |" if markdown else "  ".join(texts).rstrip())
    if markdown:
        rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
        lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits; ``-`` where there is none, ``over`` past a limit."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "over"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):.{max(places, 0)}f}"
